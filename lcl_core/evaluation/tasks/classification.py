"""Classification: fit a probe to a label key on the train split, test it on the other splits.

``LabelTask`` is the base of tasks that fit a probe for each label key. Hyper-parameters are chosen on images held out
of training, never on a tested split.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from lcl_core.common.errors import UserError
from lcl_core.data import Corpus
from lcl_core.evaluation.features import EvaluatedEncoder
from lcl_core.evaluation.heads.linear_probe import ProbeTraining, prediction_samples, training_cost
from lcl_core.evaluation.predictions import IMAGE_TO_CLASS, PredictionFile
from lcl_core.evaluation.tasks.base import (
    DatasetResolver,
    EvalContext,
    EvalImage,
    Holdout,
    LabelKey,
    Task,
    plan_holdout,
    plan_label_key,
)
from lcl_core.specs.evaluate import ClassificationSpec, EvaluateSpec, Transfer


@dataclass(frozen=True)
class LabelKeyPlan:
    """A label key, and the pictures on which its hyper-parameters are chosen; none where none are."""

    key: LabelKey
    holdout: Holdout | None


@dataclass(frozen=True)
class ClassificationPlan:
    """Attributes:
    train: pictures to learn from.
    galleries: pictures of each tested split.
    """

    train: list[EvalImage]
    galleries: dict[str, list[EvalImage]]
    lessons: list[LabelKeyPlan]

    @property
    def pictures(self) -> int:
        return len(self.train) + sum(map(len, self.galleries.values()))


def plan_classification(
    own: ClassificationSpec, spec: EvaluateSpec, corpus: Corpus, places: DatasetResolver, *, field: str
) -> ClassificationPlan:
    """Read the splits, number the classes, hold pictures out where there is something to choose.

    Args:
        field: of the evaluation's spec that holds ``own``.

    Raises:
        UserError: a split is empty, has no known labels or is used for two things; names the field.
    """
    galleries = places.tested(spec, corpus)
    labels = tuple(dict.fromkeys(own.labels))
    train = _training_images(own, spec, corpus, places, labels, field)
    lessons = []
    for label in labels:
        place = own.labels.index(label)
        key = plan_label_key(label, own.train_split, train, galleries, field=f"{field}.labels.{place}")
        lessons.append(LabelKeyPlan(key, plan_holdout(own, spec, corpus, places, key, train=train, field=field)))
    return ClassificationPlan(train, galleries, lessons)


def _training_images(
    own: ClassificationSpec,
    spec: EvaluateSpec,
    corpus: Corpus,
    places: DatasetResolver,
    labels: tuple[str, ...],
    field: str,
) -> list[EvalImage]:
    """The pictures to learn from: those of the train split that have any of the labels."""
    split = own.train_split
    if split in spec.splits:
        raise UserError(
            f"{field} learns from split {split!r}, so it cannot be examined on it; "
            f"name another in splits or in {field}.train_split",
            code="train_split_tested", field=f"splits.{spec.splits.index(split)}",
        )  # fmt: skip
    pictures = places.gallery(corpus, split, spec.source, field=f"{field}.train_split")
    taught = [picture for picture in pictures if not picture.labels.keys().isdisjoint(labels)]
    return taught or pictures  # with none, the complaint about the label can name those that there are


@dataclass(frozen=True)
class LabelTask(Task):
    """Attentive pooling and a linear layer (paper, transfer heads (a)), frozen or full.

    Attributes:
        spec: the part of the evaluation's that bears the task's name.
        transfer: the protocols that it is sat by.
    """

    spec: ClassificationSpec
    transfer: tuple[Transfer, ...]
    syllabus: ClassificationPlan

    @classmethod
    def plan(cls, spec: EvaluateSpec, corpus: Corpus, places: DatasetResolver) -> Self:
        own: ClassificationSpec = getattr(spec, cls.name)
        return cls(own, spec.protocols(own), plan_classification(own, spec, corpus, places, field=cls.name))

    @property
    def wants_patches(self) -> bool:
        return "frozen" in self.transfer

    def units(self) -> float:
        courses = list(self.courses())
        learnt = sum(training_cost(self.spec, transfer, count) for transfer in self.transfer for count in courses)
        return self.syllabus.pictures * len(self.transfer) + learnt

    def sit(self, room: EvalContext, encoder: EvaluatedEncoder) -> None:
        for transfer in self.transfer:
            for lesson in self.syllabus.lessons:
                self.teach(room, encoder, transfer, lesson)

    @abstractmethod
    def courses(self) -> Iterator[int]:
        """How many pictures each head of a protocol learns from."""

    @abstractmethod
    def teach(self, room: EvalContext, encoder: EvaluatedEncoder, transfer: Transfer, lesson: LabelKeyPlan) -> None:
        """Learn a lesson and store the answers. Raises: as ``sit``."""

    def course(
        self, room: EvalContext, encoder: EvaluatedEncoder, transfer: Transfer, lesson: LabelKeyPlan, variant: str
    ) -> ProbeTraining:
        """``variant``: what its artifacts are called."""
        about = {"task": self.name, "variant": variant}
        classes = len(lesson.key.classes)
        return ProbeTraining(
            room, encoder, transfer, self.spec.train_split, self.syllabus.train, classes, self.name, about
        )


class Classification(LabelTask):
    """One head a label key, which learns from all pictures that have it."""

    name = "classification"

    def courses(self) -> Iterator[int]:
        return (len(lesson.key.train) for lesson in self.syllabus.lessons)

    def teach(self, room: EvalContext, encoder: EvaluatedEncoder, transfer: Transfer, lesson: LabelKeyPlan) -> None:
        key, seed = lesson.key, room.spec.seed
        course = self.course(room, encoder, transfer, lesson, key.label)
        spec = course.choose(self.spec, lesson.holdout, seed=seed)
        room.progress.enter(f"{encoder.role} encoder: {transfer} transfer to {key.label}")
        graduate = course.learn(spec, key.train, seed=seed)
        course.note_curve(graduate.head)
        for split, pictures in self.syllabus.galleries.items():
            asked = key.tests[split]
            answers = graduate.answer(split, pictures, asked)
            facts = {
                "candidates": len(key.classes), "left_out": asked.left_out, "train_counts": key.train_counts,
            }  # fmt: skip
            sheet = PredictionFile(
                self.name, split, key.label, transfer, "ranks", encoder.role, part=IMAGE_TO_CLASS, facts=facts
            )
            room.records.add(sheet, prediction_samples(pictures, key.classes, asked, answers))
