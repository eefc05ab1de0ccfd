"""Teaching a bridge: examples in batches of like length, by the one training loop."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lcl_core.specs import TuningSpec
from lcl_core.transfer.ahead import ahead
from lcl_core.transfer.bridge.packing import Rows, Tokens, rows_of
from lcl_core.transfer.bridge.pupil import Pupil
from lcl_core.transfer.ground import View
from lcl_core.transfer.tuning import steps_of, tune

_WINDOW = 8  # batches whose examples are sorted by length among themselves


@dataclass(frozen=True)
class Example:
    """A text to learn and its picture's row in the view; none where the text has no picture."""

    tokens: Tokens
    row: int | None


@dataclass(frozen=True)
class _Loaded:
    rows: Rows
    seen: Tensor | None
    count: int


def teach(
    pupil: Pupil,
    view: View,
    examples: Sequence[Example],
    spec: TuningSpec,
    *,
    seed: int,
    field: str,
    on_step: Callable[[int], None] = lambda examples: None,
) -> list[float]:
    """Train the pupil's bridge, and the encoder in full transfer; deterministic by ``seed``.

    Args:
        field: of the evaluation's spec that holds ``spec``, for messages.
        on_step: called with the number of examples of each step.

    Returns:
        the loss of each step.

    Raises:
        UserError: ``tuning_diverged``, or a picture that cannot be read.
    """
    speaker, language_lr = pupil.speaker, pupil.language_lr
    speaker.language.model.requires_grad_(language_lr is not None)
    beside = [] if language_lr is None else [(speaker.language.model, language_lr)]
    lengths = np.array([len(example.tokens.ids) for example in examples])

    def batches(epoch: int) -> Iterator[_Loaded]:
        order = _order(lengths, spec.batch_size, seed, epoch)
        draws = (random.Random(f"{seed} {epoch} {number}") for number in range(len(order)))  # noqa: S311
        return ahead(load, zip(order, draws, strict=True))

    def load(job: tuple[np.ndarray, random.Random]) -> _Loaded:
        picks, draw = job
        chosen = [examples[pick] for pick in picks]
        shown = np.array([example.row for example in chosen if example.row is not None], np.int64)
        rows = rows_of([example.tokens for example in chosen], speaker.picture_tokens)
        return _Loaded(rows, view.load(shown, draw) if len(shown) else None, len(chosen))

    def loss(batch: _Loaded) -> Tensor:
        patches = torch.empty(0) if batch.seen is None else view.tokens(batch.seen)
        return speaker.loss(batch.rows, patches, spec.label_smoothing)

    return tune(
        speaker.bridge, batches, loss, spec, steps=steps_of(spec, len(examples)), field=field,
        tower=pupil.ground.tower, beside=beside, on_step=lambda batch: on_step(batch.count),
    )  # fmt: skip


def _order(lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Numbers of the examples of each batch: shuffled, sorted by length within windows, batches shuffled again."""
    draw = np.random.default_rng([seed, epoch])
    shuffled = draw.permutation(len(lengths))
    span = _WINDOW * batch_size
    windows = [shuffled[start : start + span] for start in range(0, len(shuffled), span)]
    ordered = np.concatenate([window[np.argsort(lengths[window], kind="stable")] for window in windows])
    batches = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
    return [batches[place] for place in draw.permutation(len(batches))]
