"""Classification: a head learns a label key on the train split and is asked about the tested ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from lcl_core.data import Corpus
from lcl_core.specs import ClassificationSpec, EvaluateSpec, Transfer
from lcl_core.transfer.answering import class_samples
from lcl_core.transfer.course import Course, course_units
from lcl_core.transfer.encoder import ExamEncoder
from lcl_core.transfer.records import IMAGE_TO_CLASS, Sheet
from lcl_core.transfer.syllabus import Lesson, Syllabus, plan_syllabus
from lcl_core.transfer.tasks.base import Places, Room, Task

FIELD = "classification"


@dataclass(frozen=True)
class Classification(Task):
    """Attentive pooling and a linear layer (paper, transfer heads (a)), frozen or full."""

    name = "classification"

    spec: ClassificationSpec
    transfer: tuple[Transfer, ...]
    syllabus: Syllabus

    @classmethod
    def plan(cls, spec: EvaluateSpec, corpus: Corpus, places: Places) -> Self:
        syllabus = plan_syllabus(spec.classification, spec, corpus, places, field=FIELD)
        return cls(spec.classification, spec.protocols(spec.classification), syllabus)

    @property
    def wants_patches(self) -> bool:
        return "frozen" in self.transfer

    def units(self) -> float:
        teachers = [len(lesson.key.train) for lesson in self.syllabus.lessons]
        learnt = sum(course_units(self.spec, transfer, count) for transfer in self.transfer for count in teachers)
        return self.syllabus.pictures * len(self.transfer) + learnt

    def sit(self, room: Room, encoder: ExamEncoder) -> None:
        for transfer in self.transfer:
            for lesson in self.syllabus.lessons:
                self._sit(room, encoder, transfer, lesson)

    def _sit(self, room: Room, encoder: ExamEncoder, transfer: Transfer, lesson: Lesson) -> None:
        key, seed = lesson.key, room.spec.seed
        about = {"task": self.name, "variant": key.label}
        course = Course(
            room, encoder, transfer, self.spec.train_split, self.syllabus.train, len(key.classes), FIELD, about
        )
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
            sheet = Sheet(
                self.name, split, key.label, transfer, "ranks", encoder.role, part=IMAGE_TO_CLASS, facts=facts
            )
            room.records.add(sheet, class_samples(pictures, key.classes, asked, answers))
