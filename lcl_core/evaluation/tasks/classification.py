"""Classification: fit a head to a label key on the train split, test it on the other splits.

The attentive head reads patch features, frozen or trained along; ``linear`` and ``knn`` read frozen pooled latents.
``LabelTask`` is the base of tasks that fit a probe for each label key. Hyper-parameters are chosen on images held out
of training, never on a tested split. Few-shot: a probe on 1, 4, 16 … images a class, over several seeded draws; the
images of fewer shots are a subset of those of more.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Self

import numpy as np
import torch
from torch import Tensor

from lcl_core.common.errors import UserError
from lcl_core.evaluation.heads.linear_probe import (
    ClassPredictions,
    FittedClassifier,
    ProbeTraining,
    prediction_samples,
)
from lcl_core.evaluation.heads.pooled_latents import (
    LogisticRegression,
    fit_logistic_regression,
    nearest_neighbours,
    predict_by_neighbours,
)
from lcl_core.evaluation.heads.training import choose
from lcl_core.evaluation.metrics import Ints
from lcl_core.evaluation.results import IMAGE_TO_CLASS, PredictionFile, loss_curve
from lcl_core.evaluation.tasks.base import (
    EvalContext,
    EvaluationData,
    Holdout,
    LabeledImages,
    SplitImages,
    Task,
    classes_of,
    select_labeled,
    split_validation,
)
from lcl_core.specs.evaluate import (
    ClassificationSpec,
    FewShotSpec,
    ProbeSpec,
    Transfer,
    variant_of_head,
)

_SHARED_ENCODINGS = 64  # fits of few images that predict from one encoding of the tested images


@dataclass(frozen=True)
class LabelKey:
    """One label key: its classes in alphabetical order, its training and test images.

    Attributes:
        tests: by split.
        holdout: to choose hyper-parameters on; None where nothing is searched.
    """

    label: str
    classes: tuple[str, ...]
    train: LabeledImages
    tests: dict[str, LabeledImages]
    holdout: Holdout[LabeledImages] | None

    @property
    def train_counts(self) -> dict[str, int]:
        counts = np.bincount(self.train.classes, minlength=len(self.classes))
        return dict(zip(self.classes, counts.tolist(), strict=True))


def _select_known(
    images: SplitImages, label: str, classes: tuple[str, ...], train_split: str, field: str
) -> LabeledImages:
    """The split's images of a known class; an error where there is none."""
    labeled = select_labeled(images.images, label, classes)
    if not len(labeled):
        raise UserError(
            f"no image of split {images.split!r} has a {label!r} that split {train_split!r} teaches "
            f"({labeled.left_out}); leave the label or the split out",
            code="no_data", field=field,
        )  # fmt: skip
    return labeled


@dataclass(frozen=True)
class LabelTask(Task):
    """A task that fits a probe for each label key (paper, transfer head (a)), frozen or full.

    The classes are those of the train split (a closed set); a test image of another class is left out and counted.
    Held out are the images of the named validation split, else a seeded tenth of the training images.

    Attributes:
        spec: the part of the evaluation's spec with the task's name.
        transfer: the protocols.
        train, tests: the images to train on, and those of each tested split.
    """

    spec: ProbeSpec
    transfer: tuple[Transfer, ...]
    train: SplitImages
    tests: dict[str, SplitImages]
    keys: list[LabelKey]

    @classmethod
    def plan(cls, data: EvaluationData) -> Self:
        own: ProbeSpec = getattr(data.spec, cls.name)
        tests, train = data.test_images(), data.train_images(own, field=cls.name)
        labels = tuple(dict.fromkeys(own.labels))
        if labelled := [image for image in train.images if not image.labels.keys().isdisjoint(labels)]:
            train = replace(train, images=labelled)
        validation = data.validation_images(own, field=cls.name) if own.needs_holdout else None
        keys = []
        for label in labels:
            field = f"{cls.name}.labels.{own.labels.index(label)}"
            classes = classes_of(label, train, field=field)
            labeled = {
                split: _select_known(images, label, classes, own.train_split, field) for split, images in tests.items()
            }
            learnt = select_labeled(train.images, label, classes)
            holdout = None
            if validation is not None:
                field = f"{cls.name}.validation_split"
                selected = _select_known(validation, label, classes, own.train_split, field)
                holdout = Holdout(validation, selected, learnt, len(validation))
            elif own.needs_holdout:
                test, rest = split_validation(len(learnt), data.spec.seed)
                holdout = Holdout(train, learnt.choose(test), learnt.choose(rest), len(train))
            keys.append(LabelKey(label, classes, learnt, labeled, holdout))
        return cls(own, data.spec.protocols(own), train, tests, keys)

    @property
    def needs_patch_features(self) -> bool:
        return "frozen" in self.transfer

    def run(self, context: EvalContext) -> None:
        for transfer in self.transfer:
            for key in self.keys:
                self.run_label_key(context, transfer, key)

    @abstractmethod
    def run_label_key(self, context: EvalContext, transfer: Transfer, key: LabelKey) -> None:
        """Fit probes for a label key and store their predictions."""

    def training(self, context: EvalContext, transfer: Transfer, key: LabelKey, variant: str) -> ProbeTraining:
        """``variant``: its name in artifacts."""
        about = {"task": self.name, "variant": variant}
        return ProbeTraining(context, transfer, self.train, len(key.classes), self.name, about)


HeadPredictions = Iterator[tuple[str, str, ClassPredictions]]  # variant, split, predictions


@dataclass(frozen=True)
class Classification(LabelTask):
    """The heads of each label key, fitted to all images that have the label."""

    name = "classification"

    spec: ClassificationSpec

    @classmethod
    def plan(cls, data: EvaluationData) -> Self:
        task = super().plan(data)
        for key in task.keys if "knn" in task.spec.heads else ():
            if task.spec.knn.k[-1] > len(key.train):
                raise UserError(
                    f"{task.spec.knn.k[-1]} neighbours are more than the {len(key.train)} training images with label "
                    f"{key.label!r}; name a smaller number",
                    code="no_data", field=f"{cls.name}.knn.k.{len(task.spec.knn.k) - 1}",
                )  # fmt: skip
        return task

    @property
    def needs_patch_features(self) -> bool:
        return super().needs_patch_features and "attentive" in self.spec.heads

    def run_label_key(self, context: EvalContext, transfer: Transfer, key: LabelKey) -> None:
        for head in self.spec.heads_of(transfer):
            if head == "attentive":
                found = self._fit_attentive(context, transfer, key)
            elif head == "linear":
                found = self._fit_linear(context, key)
            else:
                found = self._compare_neighbours(context, key)
            for variant, split, predictions in found:
                test = key.tests[split]
                facts = {"candidates": len(key.classes), "left_out": test.left_out, "train_counts": key.train_counts}
                file = PredictionFile(
                    self.name, split, variant, transfer, "ranks", context.encoder.role, part=IMAGE_TO_CLASS, facts=facts
                )
                samples = prediction_samples(self.tests[split].images, key.label, key.classes, test, predictions)
                context.predictions.add(file, samples)

    def _fit_attentive(self, context: EvalContext, transfer: Transfer, key: LabelKey) -> HeadPredictions:
        seed = context.spec.seed
        training = self.training(context, transfer, key, key.label)
        spec = training.choose(self.spec, key.holdout, seed=seed)
        context.enter(f"{transfer} transfer to {key.label}")
        classifier = training.fit(spec, key.train, seed=seed)
        training.log_curve(classifier)
        for split, images in self.tests.items():
            (predictions,) = training.predict([classifier], images, key.tests[split])
            yield key.label, split, predictions

    def _fit_linear(self, context: EvalContext, key: LabelKey) -> HeadPredictions:
        own, field, variant = self.spec.linear, f"{self.name}.linear", variant_of_head(key.label, "linear")
        labels = {"task": self.name, "variant": variant, "transfer": "frozen", "encoder": context.encoder.role}

        def latents(images: SplitImages, labeled: LabeledImages) -> Tensor:
            pooled = context.get_pooled_latents(images)
            return torch.from_numpy(pooled[labeled.rows]).to(context.encoder.model.device)

        def fit(train: LabeledImages, l2: float) -> LogisticRegression:
            features = latents(self.train, train)
            context.enter(f"{variant}, penalty {l2:g}")
            targets = torch.from_numpy(train.classes).to(features.device)
            model = fit_logistic_regression(
                features, targets, len(key.classes), l2, heartbeat=context.progress.heartbeat,
            )  # fmt: skip
            return model

        def attempt(l2: float, holdout: Holdout[LabeledImages]) -> float:
            held_out = latents(holdout.source, holdout.test)
            predictions = fit(holdout.train, l2).predict(held_out, holdout.test.classes, field=field)
            return float(np.mean(predictions.rank == 1))

        candidates = [({"l2": l2}, l2) for l2 in own.l2]
        l2 = choose(context, candidates, attempt, key.holdout, labels, field=field, metric="acc@1")
        model = fit(key.train, l2)
        context.curves.append({**labels, **loss_curve(model.losses)})
        for split, images in self.tests.items():
            test = key.tests[split]
            yield variant, split, model.predict(latents(images, test), test.classes, field=field)

    def _compare_neighbours(self, context: EvalContext, key: LabelKey) -> HeadPredictions:
        own = self.spec.knn
        train = context.get_pooled_latents(self.train)
        classes = torch.from_numpy(key.train.classes)
        for split, images in self.tests.items():
            test, latents = key.tests[split], context.get_pooled_latents(images)
            context.enter(f"nearest neighbours for {key.label} on {split}")
            similarity, rows = nearest_neighbours(
                latents[test.rows], train, key.train.rows, own.k[-1], device=context.encoder.model.device,
                heartbeat=context.progress.heartbeat,
            )  # fmt: skip
            for k in own.k:
                predictions = predict_by_neighbours(
                    similarity[:, :k], classes[rows[:, :k]], test.classes, len(key.classes), own.temperature,
                    field=f"{self.name}.knn",
                )  # fmt: skip
                yield variant_of_head(key.label, "knn", k), split, predictions


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

    def run_label_key(self, context: EvalContext, transfer: Transfer, key: LabelKey) -> None:
        fits = self._fit_draws(context, transfer, key)
        together = _SHARED_ENCODINGS if transfer == "frozen" else 1  # in full transfer each has an encoder of its own
        predictions: dict[tuple[str, str], list[ClassPredictions]] = defaultdict(list)
        for group in iter(lambda: list(islice(fits, together)), []):
            for split, images in self.tests.items():
                training, classifiers = group[0][0], [classifier for _, classifier in group]
                found = training.predict(classifiers, images, key.tests[split])
                for (own, _), each in zip(group, found, strict=True):
                    predictions[own.about["variant"], split].append(each)
        for shots in self.spec.shots:
            for split, images in self.tests.items():
                variant, test = few_shot_variant(key, shots), key.tests[split]
                facts = {"candidates": len(key.classes), "left_out": test.left_out, "shots": shots}
                file = PredictionFile(
                    self.name, split, variant, transfer, "draws", context.encoder.role, part=IMAGE_TO_CLASS, facts=facts
                )
                draws = predictions[variant, split]
                samples = (
                    {
                        "query": images.images[row].name,
                        **images.images[row].group(key.label),
                        "label": key.classes[true],
                        "ranks": [int(each.rank[number]) for each in draws],
                        "right": 1,
                    }
                    for number, (row, true) in enumerate(zip(test.rows, test.classes, strict=True))
                )
                context.predictions.add(file, samples)

    def _fit_draws(
        self, context: EvalContext, transfer: Transfer, key: LabelKey
    ) -> Iterator[tuple[ProbeTraining, FittedClassifier]]:
        """The fits of each number of shots, draw by draw: a draw's images alone are encoded, and once."""
        seed, holdout = context.spec.seed, key.holdout
        if holdout is not None:
            held_out, test = holdout.test.cut(holdout.source)
            holdout = replace(holdout, source=held_out, test=test)
        known = key.train if holdout is None else holdout.train
        specs: dict[int, ProbeSpec] = {}
        for draw, order in enumerate(sample_orders(known, self.spec.draws, seed)):
            labeled = {shots: subset(known, order, shots) for shots in self.spec.shots}
            most = labeled[max(labeled)]  # the images of fewer shots are among these
            images, _ = most.cut(self.train)
            for shots, own in labeled.items():
                train = replace(own, rows=np.searchsorted(most.rows, own.rows))
                variant = few_shot_variant(key, shots)
                training = replace(self.training(context, transfer, key, variant), images=images)
                if draw == 0:
                    specs[shots] = training.choose(self.spec, holdout and replace(holdout, train=train), seed=seed)
                context.enter(f"{transfer} transfer to {variant}, draw {draw + 1}")
                classifier = training.fit(specs[shots], train, seed=seed + draw)
                training.log_curve(classifier, draw=draw)
                yield training, classifier


def few_shot_variant(key: LabelKey, shots: int) -> str:
    return f"{key.label}, {shots} shot{'s' if shots > 1 else ''}"
