"""Classification: a head learns a label key on the train split and is asked about the tested ones."""

from __future__ import annotations

from collections.abc import Iterator

from lcl_core.specs import Transfer
from lcl_core.transfer.answering import class_samples
from lcl_core.transfer.encoder import ExamEncoder
from lcl_core.transfer.records import IMAGE_TO_CLASS, Sheet
from lcl_core.transfer.syllabus import Lesson
from lcl_core.transfer.tasks.base import Room
from lcl_core.transfer.tasks.lessons import LessonsTask


class Classification(LessonsTask):
    """One head a label key, which learns from all pictures that have it."""

    name = "classification"

    def courses(self) -> Iterator[int]:
        return (len(lesson.key.train) for lesson in self.syllabus.lessons)

    def teach(self, room: Room, encoder: ExamEncoder, transfer: Transfer, lesson: Lesson) -> None:
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
            sheet = Sheet(
                self.name, split, key.label, transfer, "ranks", encoder.role, part=IMAGE_TO_CLASS, facts=facts
            )
            room.records.add(sheet, class_samples(pictures, key.classes, asked, answers))
