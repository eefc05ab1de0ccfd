"""Few-shot classification: fit a probe to 1, 4, 16 … images a class, over several seeded draws.

The images of fewer shots are a subset of those of more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lcl_core.evaluation.features import EvaluatedEncoder
from lcl_core.evaluation.heads.linear_probe import ClassPredictions
from lcl_core.evaluation.metrics.core import Ints
from lcl_core.evaluation.results import IMAGE_TO_CLASS, PredictionFile
from lcl_core.evaluation.tasks.base import EvalContext, EvalImage, LabeledImages
from lcl_core.evaluation.tasks.classification import LabelKey, LabelTask
from lcl_core.specs.evaluate import FewShotSpec, Transfer


def sample_orders(train: LabeledImages, draws: int, seed: int) -> list[list[Ints]]:
    """For each draw, each class's images (indices into ``train``) in random order.

    Draw d depends on the seed and d alone: more draws leave the earlier ones unchanged.
    """
    classes = [np.flatnonzero(train.classes == number) for number in range(int(train.classes.max()) + 1)]
    generators = [np.random.default_rng([seed, draw]) for draw in range(draws)]
    return [[generator.permutation(members) for members in classes] for generator in generators]


def subset(train: LabeledImages, order: list[Ints], shots: int) -> LabeledImages:
    """The first ``shots`` images of each class; a class that has fewer gives all."""
    return train.choose(np.sort(np.concatenate([members[:shots] for members in order])))


@dataclass(frozen=True)
class FewShot(LabelTask):
    """The probe of classification on few images a class; each number is a mean over seeded draws."""

    name = "few_shot"

    spec: FewShotSpec

    def fit_sizes(self) -> Iterator[int]:
        for key in self.data.keys:
            for shots in self.spec.shots:
                yield from [len(key.classes) * shots] * self.spec.draws

    def run_label_key(self, context: EvalContext, encoder: EvaluatedEncoder, transfer: Transfer, key: LabelKey) -> None:
        for shots in self.spec.shots:
            self._run_shots(context, encoder, transfer, key, shots)

    def _run_shots(
        self, context: EvalContext, encoder: EvaluatedEncoder, transfer: Transfer, key: LabelKey, shots: int
    ) -> None:
        seed = context.spec.seed
        variant = f"{key.label}, {shots} shot{'s' if shots > 1 else ''}"
        training = self.training(context, encoder, transfer, key, variant)
        train = key.train if key.holdout is None else key.holdout.train
        orders = sample_orders(train, self.spec.draws, seed)
        holdout = None if key.holdout is None else replace(key.holdout, train=subset(train, orders[0], shots))
        spec = training.choose(self.spec, holdout, seed=seed)
        predictions: dict[str, list[ClassPredictions]] = {split: [] for split in self.data.tests}
        for draw, order in enumerate(orders):
            context.progress.enter(f"{encoder.role} encoder: {transfer} transfer to {variant}, draw {draw + 1}")
            classifier = training.fit(spec, subset(train, order, shots), seed=seed + draw)
            training.log_curve(classifier, draw=draw)
            for split, images in self.data.tests.items():
                batches = classifier.source.batches(split, images)
                predictions[split].append(classifier.predict(batches, key.tests[split]))
        for split, images in self.data.tests.items():
            facts = {"candidates": len(key.classes), "left_out": key.tests[split].left_out, "shots": shots}
            file = PredictionFile(
                self.name, split, variant, transfer, "draws", encoder.role, part=IMAGE_TO_CLASS, facts=facts
            )
            context.predictions.add(file, _samples(images, key, key.tests[split], predictions[split]))


def _samples(
    images: list[EvalImage], key: LabelKey, test: LabeledImages, draws: list[ClassPredictions]
) -> Iterator[dict[str, Any]]:
    for number, (row, true) in enumerate(zip(test.rows, test.classes, strict=True)):
        yield {
            "query": images[row].name,
            "label": key.classes[true],
            "ranks": [int(each.rank[number]) for each in draws],
            "firsts": [key.classes[each.top[number, 0]] for each in draws],
            "right": 1,
        }
