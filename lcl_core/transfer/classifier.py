"""A head that learns to name classes, on frozen features or together with the encoder."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lcl_core.specs import TuningSpec
from lcl_core.transfer.ahead import ahead
from lcl_core.transfer.answering import Predictions, predict
from lcl_core.transfer.ground import Ground, View
from lcl_core.transfer.labels import Labelled
from lcl_core.transfer.probe import AttentiveProbe
from lcl_core.transfer.tuning import steps_of, tune


@dataclass(frozen=True)
class Classifier:
    """A trained head.

    Attributes:
        losses: of each step, in order.
    """

    probe: AttentiveProbe
    losses: list[float]
    field: str

    def answer(self, view: View, asked: Labelled) -> Predictions:
        """What it says of the pictures ``asked`` of ``view``."""
        parts = (asked.rows[start : start + view.at_once] for start in range(0, len(asked), view.at_once))
        logits = (self.probe(view.tokens(loaded)) for loaded in ahead(view.load, parts, threads=view.threads))
        return predict(logits, asked.classes, field=self.field)


def learn(
    ground: Ground,
    view: View,
    teachers: Labelled,
    classes: int,
    spec: TuningSpec,
    *,
    seed: int,
    field: str,
    on_step: Callable[[int], None] = lambda pictures: None,
) -> Classifier:
    """Cross-entropy over ``classes`` on the pictures ``teachers`` of ``view``; deterministic by ``seed``.

    Args:
        field: of the evaluation's spec that holds ``spec``, for messages.
        on_step: called with the number of pictures of each step.

    Raises:
        UserError: ``tuning_diverged``, or a picture that cannot be read.
    """
    generator = torch.Generator().manual_seed(seed)
    probe = AttentiveProbe(ground.width, classes, generator).to(ground.device)
    targets = torch.from_numpy(teachers.classes).to(ground.device)

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(teachers), generator=generator).split(spec.batch_size)
        draws = (random.Random(f"{seed} {epoch} {number}") for number in range(len(order)))  # noqa: S311
        return ahead(load, zip(order, draws, strict=True), threads=view.threads)

    def load(job: tuple[Tensor, random.Random]) -> tuple[Tensor, Tensor]:
        picks, draw = job
        return picks, view.load(teachers.rows[picks.numpy()], draw)

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        picks, loaded = batch
        wanted = targets[picks.to(ground.device)]
        return F.cross_entropy(probe(view.tokens(loaded)), wanted, label_smoothing=spec.label_smoothing)

    losses = tune(
        probe, batches, loss, spec, steps=steps_of(spec, len(teachers)), field=field, tower=ground.tower,
        precision=ground.precision, on_step=lambda batch: on_step(len(batch[0])),
    )  # fmt: skip
    return Classifier(probe, losses, field)
