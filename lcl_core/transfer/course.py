"""A course: one encoder, in one protocol, learns one label key from the pictures of one split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lcl_core.specs import Transfer, TuningSpec
from lcl_core.transfer.answering import Predictions
from lcl_core.transfer.choice import choose
from lcl_core.transfer.classifier import Classifier, learn
from lcl_core.transfer.encoder import ExamEncoder
from lcl_core.transfer.gallery import Picture
from lcl_core.transfer.ground import GROUNDS, Ground
from lcl_core.transfer.holdout import Holdout
from lcl_core.transfer.labels import Labelled
from lcl_core.transfer.ledger import curve
from lcl_core.transfer.tasks.base import Room

STEP_UNITS = {"frozen": 0.05, "full": 3.0}  # rough cost of learning from a picture once, in embedded pictures


@dataclass(frozen=True)
class Course:
    """Everything that does not change from one attempt to the next.

    Attributes:
        split, pictures: to learn from.
        classes: how many.
        field: of the evaluation's spec that holds the hyper-parameters.
        about: says in artifacts what is learnt: task, variant.
    """

    room: Room
    encoder: ExamEncoder
    transfer: Transfer
    split: str
    pictures: list[Picture]
    classes: int
    field: str
    about: dict[str, Any]

    def learn(self, spec: TuningSpec, teachers: Labelled, *, seed: int) -> Graduate:
        """A new head, and in full transfer a new copy of the encoder."""
        ground = GROUNDS[self.transfer](self.room, self.encoder, spec.augmentation)
        view = ground.view(self.split, self.pictures)
        head = learn(ground, view, teachers, self.classes, spec, seed=seed, field=self.field, on_step=self._count)
        return Graduate(ground, head)

    def choose(self, spec: TuningSpec, holdout: Holdout | None, *, seed: int) -> TuningSpec:
        """The protocol's spec with what is best on the pictures held out; the run's choices say what was tried."""
        spec = spec.under(self.transfer)
        if holdout is None:
            return spec

        def attempt(candidate: TuningSpec) -> float:
            graduate = self.learn(candidate, holdout.teachers, seed=seed)
            answers = graduate.answer(holdout.split, holdout.pictures, holdout.asked)
            return float(np.mean(answers.rank == 1))

        self.room.progress.enter(f"{self.encoder.role} encoder: choosing for {self.transfer} transfer")
        chosen, choice = choose(spec, attempt, field=self.field)
        if choice is not None:
            held = {"split": holdout.split, "pictures": len(holdout.asked), "of": len(holdout.pictures)}
            self.room.choices.add({**self._named, "held_out": held, "metric": "acc@1", **choice.to_dict()})
        return chosen

    def note_curve(self, head: Classifier, **more: Any) -> None:
        """Its losses, thinned, go to the run's curves."""
        self.room.curves.add({**self._named, **more, **curve(head.losses)})

    @property
    def _named(self) -> dict[str, Any]:
        return {**self.about, "transfer": self.transfer, "encoder": self.encoder.role}

    def _count(self, pictures: int) -> None:
        self.room.progress.add(STEP_UNITS[self.transfer] * pictures)


@dataclass(frozen=True)
class Graduate:
    """What came out of a course."""

    ground: Ground
    head: Classifier

    def answer(self, split: str, pictures: list[Picture], asked: Labelled) -> Predictions:
        """What it says of the pictures ``asked`` of a split."""
        return self.head.answer(self.ground.view(split, pictures), asked)


def course_units(spec: TuningSpec, transfer: Transfer, teachers: int) -> float:
    """Rough work of learning, what is tried before included."""
    spec = spec.under(transfer)
    attempts = 1 + int(np.prod([len(values) for values in spec.search.values()])) if spec.search else 1
    learnt = spec.steps * spec.batch_size if spec.steps else spec.epochs * teachers
    return STEP_UNITS[transfer] * learnt * attempts
