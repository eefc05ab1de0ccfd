"""A pupil: one encoder, in one protocol, is put before a language model, taught, and asked to speak."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from lcl_core.specs import AugmentationSpec, DecodingSpec, LanguageModelSpec
from lcl_core.train.device import Precision, computes_in
from lcl_core.transfer.ahead import ahead
from lcl_core.transfer.bridge.finding import LanguageFiles
from lcl_core.transfer.bridge.loading import load_language_model
from lcl_core.transfer.bridge.packing import Tokens
from lcl_core.transfer.bridge.speaker import Speaker
from lcl_core.transfer.encoder import ExamEncoder
from lcl_core.transfer.ground import GROUNDS, Ground, View
from lcl_core.transfer.ranking import Ints

if TYPE_CHECKING:
    from lcl_core.transfer.tasks.base import Room


@dataclass(frozen=True)
class Pupil:
    """A speaker on its ground.

    Attributes:
        language_lr: rate at which the language model learns along; none: it stays as it is.
    """

    ground: Ground
    speaker: Speaker
    language_lr: float | None

    @torch.inference_mode()
    def say(
        self,
        view: View,
        rows: Ints,
        prompts: Sequence[Tokens],
        spec: DecodingSpec,
        *,
        seed: int,
        on_batch: Callable[[int], None] = lambda answers: None,
    ) -> list[str]:
        """An answer to each prompt, which shows the picture of ``view`` at the place in ``rows``.

        Prompts of like length are answered together.

        Args:
            on_batch: called with the number of answers that were just given.
        """
        order = np.argsort([len(prompt.ids) for prompt in prompts], kind="stable")
        batches = [order[start : start + spec.batch_size] for start in range(0, len(order), spec.batch_size)]
        answers = [""] * len(prompts)
        for number, loaded in enumerate(ahead(lambda picks: view.load(rows[picks]), batches)):
            picks = batches[number]
            asked = [prompts[pick] for pick in picks]
            said = self.speaker.say(asked, view.tokens(loaded), spec, seed + number)
            for pick, answer in zip(picks, said, strict=True):
                answers[pick] = answer
            on_batch(len(picks))
        return answers


def enrol(
    room: Room,
    encoder: ExamEncoder,
    transfer: str,
    files: LanguageFiles,
    spec: LanguageModelSpec,
    *,
    augmentation: AugmentationSpec,
    precision: Precision,
    field: str,
) -> Pupil:
    """A new bridge, the language model as it lies there, and in full transfer a copy of the encoder.

    Args:
        field: of the evaluation's spec that holds ``spec``, for messages.
    """
    ground = GROUNDS[transfer](room, encoder, augmentation)
    learns = transfer == "full" and spec.train
    dtype = computes_in(ground.device, "fp32" if learns else precision)
    language = load_language_model(
        files, room.cache.root.parent / "language_models", dtype=dtype, device=ground.device, field=field
    )
    speaker = Speaker(language, ground.width, encoder.tower.tokens, room.spec.seed)
    return Pupil(ground, speaker, spec.lr if learns else None)
