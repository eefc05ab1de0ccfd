"""Few-shot classification: fit a probe to 1, 4, 16 … images a class, over several seeded draws.

The images of fewer shots are a subset of those of more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lcl_core.evaluation.features import EvaluatedEncoder
from lcl_core.evaluation.heads.linear_probe import ClassPredictions
from lcl_core.evaluation.metrics.ranks import Ints
from lcl_core.evaluation.predictions import IMAGE_TO_CLASS, PredictionFile
from lcl_core.evaluation.tasks.base import EvalContext, EvalImage, LabeledImages, LabelKey
from lcl_core.evaluation.tasks.classification import LabelKeyPlan, LabelTask
from lcl_core.specs.evaluate import FewShotSpec, Transfer


def sample_orders(teachers: LabeledImages, draws: int, seed: int) -> list[list[Ints]]:
    """For each draw, each class's pictures (places in ``teachers``) in a random order of its own.

    Draw d depends on the seed and d alone: more draws leave the earlier ones as they are.
    """
    classes = [np.flatnonzero(teachers.classes == number) for number in range(int(teachers.classes.max()) + 1)]
    generators = [np.random.default_rng([seed, draw]) for draw in range(draws)]
    return [[generator.permutation(places) for places in classes] for generator in generators]


def subset(teachers: LabeledImages, order: list[Ints], shots: int) -> LabeledImages:
    """The first ``shots`` pictures of each class; a class that has fewer gives all."""
    return teachers.choose(np.sort(np.concatenate([places[:shots] for places in order])))


@dataclass(frozen=True)
class FewShot(LabelTask):
    """The head of classification on 1, 4, 16 … pictures a class; each number is a mean over seeded draws."""

    name = "few_shot"

    spec: FewShotSpec

    def courses(self) -> Iterator[int]:
        for lesson in self.syllabus.lessons:
            for shots in self.spec.shots:
                yield from [len(lesson.key.classes) * shots] * self.spec.draws

    def teach(self, room: EvalContext, encoder: EvaluatedEncoder, transfer: Transfer, lesson: LabelKeyPlan) -> None:
        for shots in self.spec.shots:
            self._teach(room, encoder, transfer, lesson, shots)

    def _teach(
        self, room: EvalContext, encoder: EvaluatedEncoder, transfer: Transfer, lesson: LabelKeyPlan, shots: int
    ) -> None:
        key, seed = lesson.key, room.spec.seed
        variant = f"{key.label}, {shots} shot{'s' if shots > 1 else ''}"
        course = self.course(room, encoder, transfer, lesson, variant)
        teachers = key.train if lesson.holdout is None else lesson.holdout.teachers
        orders = sample_orders(teachers, self.spec.draws, seed)
        holdout = None if lesson.holdout is None else lesson.holdout.taught_by(subset(teachers, orders[0], shots))
        spec = course.choose(self.spec, holdout, seed=seed)
        answers: dict[str, list[ClassPredictions]] = {split: [] for split in self.syllabus.galleries}
        for draw, order in enumerate(orders):
            room.progress.enter(f"{encoder.role} encoder: {transfer} transfer to {variant}, draw {draw + 1}")
            graduate = course.learn(spec, subset(teachers, order, shots), seed=seed + draw)
            course.note_curve(graduate.head, draw=draw)
            for split, pictures in self.syllabus.galleries.items():
                answers[split].append(graduate.answer(split, pictures, key.tests[split]))
        for split, pictures in self.syllabus.galleries.items():
            facts = {"candidates": len(key.classes), "left_out": key.tests[split].left_out, "shots": shots}
            sheet = PredictionFile(
                self.name, split, variant, transfer, "draws", encoder.role, part=IMAGE_TO_CLASS, facts=facts
            )
            room.records.add(sheet, _samples(pictures, key, key.tests[split], answers[split]))


def _samples(
    pictures: list[EvalImage], key: LabelKey, asked: LabeledImages, answers: list[ClassPredictions]
) -> Iterator[dict[str, Any]]:
    for place, (row, true) in enumerate(zip(asked.rows, asked.classes, strict=True)):
        yield {
            "query": pictures[row].image,
            "label": key.classes[true],
            "ranks": [int(each.rank[place]) for each in answers],
            "firsts": [key.classes[each.top[place, 0]] for each in answers],
            "right": 1,
        }
