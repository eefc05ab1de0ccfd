"""Few-shot classification: the head learns from a few pictures of each class, several times over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from lcl_core.data import Corpus
from lcl_core.specs import EvaluateSpec, FewShotSpec, Transfer
from lcl_core.transfer.answering import Predictions
from lcl_core.transfer.course import Course, course_units
from lcl_core.transfer.encoder import ExamEncoder
from lcl_core.transfer.gallery import Picture
from lcl_core.transfer.labels import LabelKey, Labelled
from lcl_core.transfer.records import IMAGE_TO_CLASS, Sheet
from lcl_core.transfer.shots import draw_orders, few
from lcl_core.transfer.syllabus import Lesson, Syllabus, plan_syllabus
from lcl_core.transfer.tasks.base import Places, Room, Task

FIELD = "few_shot"


@dataclass(frozen=True)
class FewShot(Task):
    """The head of classification on 1, 4, 16 … pictures a class; each number is a mean over seeded draws."""

    name = "few_shot"

    spec: FewShotSpec
    transfer: tuple[Transfer, ...]
    syllabus: Syllabus

    @classmethod
    def plan(cls, spec: EvaluateSpec, corpus: Corpus, places: Places) -> Self:
        syllabus = plan_syllabus(spec.few_shot, spec, corpus, places, field=FIELD)
        return cls(spec.few_shot, spec.protocols(spec.few_shot), syllabus)

    @property
    def wants_patches(self) -> bool:
        return "frozen" in self.transfer

    def units(self) -> float:
        taught = [len(lesson.key.classes) * shots for lesson in self.syllabus.lessons for shots in self.spec.shots]
        learnt = sum(course_units(self.spec, transfer, count) for transfer in self.transfer for count in taught)
        return self.syllabus.pictures * len(self.transfer) + learnt * self.spec.draws

    def sit(self, room: Room, encoder: ExamEncoder) -> None:
        for transfer in self.transfer:
            for lesson in self.syllabus.lessons:
                for shots in self.spec.shots:
                    self._sit(room, encoder, transfer, lesson, shots)

    def _sit(self, room: Room, encoder: ExamEncoder, transfer: Transfer, lesson: Lesson, shots: int) -> None:
        key, seed = lesson.key, room.spec.seed
        variant = f"{key.label}, {shots} shot{'s' if shots > 1 else ''}"
        about = {"task": self.name, "variant": variant}
        course = Course(
            room, encoder, transfer, self.spec.train_split, self.syllabus.train, len(key.classes), FIELD, about
        )
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
