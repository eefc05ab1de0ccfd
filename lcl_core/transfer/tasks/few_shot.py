"""Few-shot classification: the head learns from a few pictures of each class, several times over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lcl_core.specs import FewShotSpec, Transfer
from lcl_core.transfer.answering import Predictions
from lcl_core.transfer.encoder import ExamEncoder
from lcl_core.transfer.gallery import Picture
from lcl_core.transfer.labels import LabelKey, Labelled
from lcl_core.transfer.records import IMAGE_TO_CLASS, Sheet
from lcl_core.transfer.shots import draw_orders, few
from lcl_core.transfer.syllabus import Lesson
from lcl_core.transfer.tasks.base import Room
from lcl_core.transfer.tasks.lessons import LessonsTask


@dataclass(frozen=True)
class FewShot(LessonsTask):
    """The head of classification on 1, 4, 16 … pictures a class; each number is a mean over seeded draws."""

    name = "few_shot"

    spec: FewShotSpec

    def courses(self) -> Iterator[int]:
        for lesson in self.syllabus.lessons:
            for shots in self.spec.shots:
                yield from [len(lesson.key.classes) * shots] * self.spec.draws

    def teach(self, room: Room, encoder: ExamEncoder, transfer: Transfer, lesson: Lesson) -> None:
        for shots in self.spec.shots:
            self._teach(room, encoder, transfer, lesson, shots)

    def _teach(self, room: Room, encoder: ExamEncoder, transfer: Transfer, lesson: Lesson, shots: int) -> None:
        key, seed = lesson.key, room.spec.seed
        variant = f"{key.label}, {shots} shot{'s' if shots > 1 else ''}"
        course = self.course(room, encoder, transfer, lesson, variant)
        teachers = key.train if lesson.holdout is None else lesson.holdout.teachers
        orders = draw_orders(teachers, self.spec.draws, seed)
        holdout = None if lesson.holdout is None else lesson.holdout.taught_by(few(teachers, orders[0], shots))
        spec = course.choose(self.spec, holdout, seed=seed)
        answers: dict[str, list[Predictions]] = {split: [] for split in self.syllabus.galleries}
        for draw, order in enumerate(orders):
            room.progress.enter(f"{encoder.role} encoder: {transfer} transfer to {variant}, draw {draw + 1}")
            graduate = course.learn(spec, few(teachers, order, shots), seed=seed + draw)
            course.note_curve(graduate.head, draw=draw)
            for split, pictures in self.syllabus.galleries.items():
                answers[split].append(graduate.answer(split, pictures, key.tests[split]))
        for split, pictures in self.syllabus.galleries.items():
            facts = {"candidates": len(key.classes), "left_out": key.tests[split].left_out, "shots": shots}
            sheet = Sheet(self.name, split, variant, transfer, "draws", encoder.role, part=IMAGE_TO_CLASS, facts=facts)
            room.records.add(sheet, _samples(pictures, key, key.tests[split], answers[split]))


def _samples(
    pictures: list[Picture], key: LabelKey, asked: Labelled, answers: list[Predictions]
) -> Iterator[dict[str, Any]]:
    for place, (row, true) in enumerate(zip(asked.rows, asked.classes, strict=True)):
        yield {
            "query": pictures[row].image,
            "label": key.classes[true],
            "ranks": [int(each.rank[place]) for each in answers],
            "firsts": [key.classes[each.top[place, 0]] for each in answers],
            "right": 1,
        }
