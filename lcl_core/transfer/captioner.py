"""Learning to caption the pictures of one split, and captioning those of another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lcl_core.data import Corpus
from lcl_core.specs import CaptioningSpec, LanguageModelSpec, Transfer
from lcl_core.transfer.bridge.finding import LanguageFiles
from lcl_core.transfer.bridge.learning import Example, teach
from lcl_core.transfer.bridge.pupil import Pupil, enrol
from lcl_core.transfer.bridge.turns import laid_out_caption
from lcl_core.transfer.caption_lessons import HeldOut, Lesson
from lcl_core.transfer.choice import choose
from lcl_core.transfer.encoder import ExamEncoder
from lcl_core.transfer.gallery import Picture
from lcl_core.transfer.ground import View
from lcl_core.transfer.language.captions import score_captions
from lcl_core.transfer.ranking import Ints

if TYPE_CHECKING:
    from lcl_core.transfer.tasks.base import Room

@dataclass(frozen=True)
class Captioner:
    """Who learns, from which pictures, in front of which language model.

    Attributes:
        corpus, split, pictures: to learn from.
        field: of the evaluation's spec.
        step_units: work of learning a caption once, in embedded pictures.
    """

    room: Room
    encoder: ExamEncoder
    transfer: Transfer
    files: LanguageFiles
    language: LanguageModelSpec
    corpus: Corpus
    split: str
    pictures: list[Picture]
    field: str
    step_units: float

    def choose(self, spec: CaptioningSpec, lessons: Sequence[Lesson], held: HeldOut | None) -> CaptioningSpec:
        """The spec with what gives the best CIDEr on the pictures held out; what was tried goes to the choices."""
        if held is None:
            return spec
        names = [held.pictures[row].image for row in held.rows]
        references = {held.pictures[row].image: held.pictures[row].captions for row in held.rows}
        meanwhile = [lesson for lesson in lessons if lesson[0] in held.taught]

        def attempt(candidate: CaptioningSpec) -> float:
            pupil, _ = self.learn(candidate, meanwhile)
            view = pupil.ground.view(held.split, held.pictures, self.corpus)
            said = captions_of(pupil, candidate, view, np.array(held.rows), seed=self.room.spec.seed)
            found = score_captions(dict(zip(names, said, strict=True)), references, with_meteor=False)
            return found.values["CIDEr"]

        chosen, choice = choose(spec, attempt, field=self.field)
        if choice is not None:  # a protocol may have nothing left to search
            facts = {"split": held.split, "pictures": len(held.rows), "of": len(held.pictures)}
            self.room.choices.add({**self.named, "held_out": facts, "metric": "CIDEr", **choice.to_dict()})
        return chosen

    @property
    def named(self) -> dict[str, Any]:
        """What is learnt, as artifacts say it."""
        return {"task": self.field, "variant": "all", "transfer": self.transfer, "encoder": self.encoder.role}

    def learn(self, spec: CaptioningSpec, lessons: Sequence[Lesson]) -> tuple[Pupil, list[float]]:
        """A new bridge that was taught ``lessons``, rows being those of the pictures; and the loss of each step."""
        pupil = enrol(
            self.room, self.encoder, self.transfer, self.files, self.language,
            augmentation=spec.augmentation, precision=spec.precision, field=f"{self.field}.language_model",
        )  # fmt: skip
        language = pupil.speaker.language
        examples = [
            Example(laid_out_caption(language, spec, caption).cut(self.language.max_tokens), row)
            for row, caption in lessons
        ]
        view = pupil.ground.view(self.split, self.pictures, self.corpus)
        self.room.progress.enter(f"{self.encoder.role} encoder: {self.transfer} transfer to captions")
        losses = teach(
            pupil, view, examples, spec, seed=self.room.spec.seed, field=self.field,
            on_step=lambda captions: self.room.progress.add(self.step_units * captions),
        )  # fmt: skip
        return pupil, losses


def captions_of(
    pupil: Pupil,
    spec: CaptioningSpec,
    view: View,
    rows: Ints,
    *,
    seed: int,
    on_batch: Callable[[int], None] = lambda captions: None,
) -> list[str]:
    """A caption of each of the pictures of ``view`` at ``rows``."""
    prompt = laid_out_caption(pupil.speaker.language, spec, None)
    return pupil.say(view, rows, [prompt] * len(rows), spec.decoding, seed=seed, on_batch=on_batch)
