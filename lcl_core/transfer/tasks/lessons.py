"""What tasks share in which a head learns the lessons of a syllabus and is then asked about the tested splits."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from lcl_core.data import Corpus
from lcl_core.specs import ClassificationSpec, EvaluateSpec, Transfer
from lcl_core.transfer.course import Course, course_units
from lcl_core.transfer.encoder import ExamEncoder
from lcl_core.transfer.syllabus import Lesson, Syllabus, plan_syllabus
from lcl_core.transfer.tasks.base import Places, Room, Task


@dataclass(frozen=True)
class LessonsTask(Task):
    """Attentive pooling and a linear layer (paper, transfer heads (a)), frozen or full.

    Attributes:
        spec: the part of the evaluation's that bears the task's name.
        transfer: the protocols that it is sat by.
    """

    spec: ClassificationSpec
    transfer: tuple[Transfer, ...]
    syllabus: Syllabus

    @classmethod
    def plan(cls, spec: EvaluateSpec, corpus: Corpus, places: Places) -> Self:
        own: ClassificationSpec = getattr(spec, cls.name)
        return cls(own, spec.protocols(own), plan_syllabus(own, spec, corpus, places, field=cls.name))

    @property
    def wants_patches(self) -> bool:
        return "frozen" in self.transfer

    def units(self) -> float:
        courses = list(self.courses())
        learnt = sum(course_units(self.spec, transfer, count) for transfer in self.transfer for count in courses)
        return self.syllabus.pictures * len(self.transfer) + learnt

    def sit(self, room: Room, encoder: ExamEncoder) -> None:
        for transfer in self.transfer:
            for lesson in self.syllabus.lessons:
                self.teach(room, encoder, transfer, lesson)

    @abstractmethod
    def courses(self) -> Iterator[int]:
        """How many pictures each head of a protocol learns from."""

    @abstractmethod
    def teach(self, room: Room, encoder: ExamEncoder, transfer: Transfer, lesson: Lesson) -> None:
        """Learn a lesson and store the answers. Raises: as ``sit``."""

    def course(self, room: Room, encoder: ExamEncoder, transfer: Transfer, lesson: Lesson, variant: str) -> Course:
        """``variant``: what its artifacts are called."""
        about = {"task": self.name, "variant": variant}
        classes = len(lesson.key.classes)
        return Course(room, encoder, transfer, self.spec.train_split, self.syllabus.train, classes, self.name, about)
