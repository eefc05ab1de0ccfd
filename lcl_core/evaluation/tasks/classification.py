"""Classification: fit heads to a label key on the train split, test them on the other splits.

The attentive head reads patch features, frozen or trained along; ``linear`` and ``knn`` read frozen pooled latents.
Hyper-parameters are chosen on images held out of training, never on a tested split.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

import numpy as np
import torch
from torch import Tensor

from lcl_core.common.errors import UserError
from lcl_core.evaluation.classifiers import (
    ClassPredictions,
    LogisticRegression,
    fit_logistic_regression,
    fit_probe,
    nearest_neighbours,
    predict_by_neighbours,
    predict_by_probe,
    store_predictions,
)
from lcl_core.evaluation.tasks.base import (
    EvalContext,
    EvaluationData,
    Holdout,
    LabeledImages,
    SplitImages,
    Task,
    classes_of,
    select_labeled,
)
from lcl_core.evaluation.training import FeatureSource, choose, search_candidates
from lcl_core.specs.evaluate import ClassificationSpec, Transfer, variant_of_head

FIELD = "classification"


@dataclass(frozen=True)
class LabelKey:
    """One label key: its training and test images.

    Attributes:
        holdout: to choose hyper-parameters on; None where nothing is searched.
    """

    label: str
    train: LabeledImages
    tests: list[LabeledImages]
    holdout: Holdout[LabeledImages] | None


def _select_known(split: SplitImages, *, label: str, names: tuple[str, ...], own: ClassificationSpec) -> LabeledImages:
    """The split's images of a known class; an error where there is none."""
    labeled = select_labeled(split, label, names)
    if not len(labeled):
        raise UserError(
            f"no image of split {split.split!r} has a {label!r} that split {own.train_split!r} teaches "
            f"({labeled.left_out}); leave the label or the split out",
            code="no_data", field=f"{FIELD}.labels.{own.labels.index(label)}",
        )  # fmt: skip
    return labeled


HeadPredictions = Iterator[tuple[str, LabeledImages, ClassPredictions]]  # variant, tested images, predictions


@dataclass(frozen=True)
class Classification(Task):
    """The heads of each label key (paper, transfer head (a)), frozen or full.

    The classes are those of the train split (a closed set); a test image of another class is left out and counted.
    """

    name = FIELD

    spec: ClassificationSpec
    transfer: tuple[Transfer, ...]
    keys: list[LabelKey]

    @classmethod
    def plan(cls, data: EvaluationData) -> Self:
        own = data.spec.classification
        tests, train = data.test_images(), data.train_images(own, FIELD)
        labels = tuple(dict.fromkeys(own.labels))
        if labelled := [image for image in train.images if not image.labels.keys().isdisjoint(labels)]:
            train = replace(train, images=labelled)
        keys = []
        for label in labels:
            field = f"{FIELD}.labels.{own.labels.index(label)}"
            classes = classes_of(label, train, field=field)
            select = partial(_select_known, label=label, names=classes, own=own)
            learnt = select_labeled(train, label, classes)
            if "knn" in own.heads and own.neighbours[-1] > len(learnt):
                raise UserError(
                    f"{own.neighbours[-1]} neighbours are more than the {len(learnt)} training images with label "
                    f"{label!r}; name a smaller number",
                    code="no_data", field=f"{FIELD}.neighbours.{len(own.neighbours) - 1}",
                )  # fmt: skip
            holdout = data.make_holdout(own, FIELD, train, learnt, select) if own.needs_holdout else None
            keys.append(LabelKey(label, learnt, [select(images) for images in tests.values()], holdout))
        return cls(own, data.spec.protocols(own), keys)

    @property
    def needs_patch_features(self) -> bool:
        return "frozen" in self.transfer and "attentive" in self.spec.heads

    def run(self, context: EvalContext) -> None:
        for transfer in self.transfer:
            for key in self.keys:
                for head in self.spec.heads_of(transfer):
                    if head == "attentive":
                        found = self._fit_attentive(context, transfer, key)
                    elif head == "linear":
                        found = self._fit_linear(context, key)
                    else:
                        found = self._compare_neighbours(context, key)
                    counts = np.bincount(key.train.classes, minlength=len(key.train.names)).tolist()
                    facts = {"train_counts": dict(zip(key.train.names, counts, strict=True))}
                    for variant, test, predictions in found:
                        store_predictions(
                            context, test, predictions, facts=facts, task=FIELD, variant=variant, transfer=transfer
                        )

    def _fit_attentive(self, context: EvalContext, transfer: Transfer, key: LabelKey) -> HeadPredictions:
        labels = context.fit_labels(FIELD, key.label, transfer)

        def attempt(candidate: ClassificationSpec, holdout: Holdout[LabeledImages]) -> float:
            source = FeatureSource(context, transfer, candidate.augmentation)
            probe, _ = fit_probe(source, holdout.train, candidate, FIELD)
            return float(np.mean(predict_by_probe(source, probe, holdout.test, FIELD).rank == 1))

        candidates = search_candidates(self.spec.for_protocol(transfer))
        spec = choose(context, candidates, attempt, key.holdout, labels, field=FIELD, metric="acc@1")
        context.enter(f"{transfer} transfer to {key.label}")
        source = FeatureSource(context, transfer, spec.augmentation)
        probe, losses = fit_probe(source, key.train, spec, FIELD)
        context.log_losses(labels, losses)
        for test in key.tests:
            yield key.label, test, predict_by_probe(source, probe, test, FIELD)

    def _fit_linear(self, context: EvalContext, key: LabelKey) -> HeadPredictions:
        variant = variant_of_head(key.label, "linear")
        labels = context.fit_labels(FIELD, variant, "frozen")

        def latents(labeled: LabeledImages) -> Tensor:
            pooled = context.get_pooled_latents(labeled.split)
            return torch.from_numpy(pooled[labeled.rows]).to(context.encoder.model.device)

        def fit(train: LabeledImages, l2: float) -> LogisticRegression:
            features = latents(train)
            context.enter(f"{variant}, penalty {l2:g}")
            targets = torch.from_numpy(train.classes).to(features.device)
            return fit_logistic_regression(
                features, targets, len(train.names), l2, heartbeat=context.progress.heartbeat
            )

        def attempt(l2: float, holdout: Holdout[LabeledImages]) -> float:
            model = fit(holdout.train, l2)
            predictions = model.predict(latents(holdout.test), holdout.test.classes, field=FIELD)
            return float(np.mean(predictions.rank == 1))

        candidates = [({"l2": l2}, l2) for l2 in self.spec.l2]
        l2 = choose(context, candidates, attempt, key.holdout, labels, field=FIELD, metric="acc@1")
        model = fit(key.train, l2)
        context.log_losses(labels, model.losses)
        for test in key.tests:
            yield variant, test, model.predict(latents(test), test.classes, field=FIELD)

    def _compare_neighbours(self, context: EvalContext, key: LabelKey) -> HeadPredictions:
        k, train = self.spec.neighbours, context.get_pooled_latents(key.train.split)[key.train.rows]
        classes = torch.from_numpy(key.train.classes)
        for test in key.tests:
            latents = context.get_pooled_latents(test.split)
            context.enter(f"nearest neighbours for {key.label} on {test.split.split}")
            similarity, rows = nearest_neighbours(
                latents[test.rows], train, k[-1], device=context.encoder.model.device,
                heartbeat=context.progress.heartbeat,
            )  # fmt: skip
            for each in k:
                votes = classes[rows[:, :each]]
                predictions = predict_by_neighbours(
                    similarity[:, :each], votes, test.classes, len(test.names), field=FIELD
                )
                yield variant_of_head(key.label, "knn", each), test, predictions
