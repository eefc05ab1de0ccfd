"""Frozen classification: a probe learns a label key on the train split and is asked about the tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lcl_core.errors import UserError
from lcl_core.specs import ClassificationSpec
from lcl_core.transfer.features import ImageFeatures
from lcl_core.transfer.gallery import Picture
from lcl_core.transfer.probe import Predictions, Rows, predict, train_probe
from lcl_core.transfer.ranking import Ints
from lcl_core.transfer.records import Records, Sheet


@dataclass(frozen=True)
class Labelled:
    """Pictures of a split that carry a label the probe can know.

    Attributes:
        rows: [Q] their rows in the split.
        classes: [Q] their classes.
        left_out: pictures not asked about: ``unlabelled``, and ``unseen`` (their class is not in training).
    """

    rows: Ints
    classes: Ints
    left_out: dict[str, int]


@dataclass(frozen=True)
class Task:
    """One label key: its classes (in alphabetical order, by number), who learns and who is asked."""

    label: str
    classes: tuple[str, ...]
    train: Labelled
    tests: dict[str, Labelled]

    @property
    def train_counts(self) -> dict[str, int]:
        counts = np.bincount(self.train.classes, minlength=len(self.classes))
        return dict(zip(self.classes, counts.tolist(), strict=True))


def plan_task(label: str, spec: ClassificationSpec, train: list[Picture], tests: dict[str, list[Picture]]) -> Task:
    """Number the classes and pick the pictures.

    A closed set, as in the field: the classes are those of the train split, and a test picture of any other
    class is left out and counted, since no answer to it could be right.

    Raises:
        UserError: ``label_unknown`` if no training picture has the label, ``nothing_to_score`` if a test
            split has no picture of a known class.
    """
    classes = tuple(sorted({picture.labels[label] for picture in train if label in picture.labels}))
    field = f"classification.labels.{spec.labels.index(label)}"
    if len(classes) < 2:
        known = ", ".join(sorted({key for picture in train for key in picture.labels})) or "none"
        raise UserError(
            f"label {label!r} has {len(classes)} classes in split {spec.train_split!r}; a probe needs two; "
            f"the split's labels: {known}",
            code="label_unknown", field=field,
        )  # fmt: skip
    asked = {split: _labelled(pictures, label, classes) for split, pictures in tests.items()}
    for split, labelled in asked.items():
        if not len(labelled.rows):
            raise UserError(
                f"no picture of split {split!r} has a {label!r} that split {spec.train_split!r} teaches "
                f"({labelled.left_out}); leave the label or the split out",
                code="nothing_to_score", field=field,
            )  # fmt: skip
    return Task(label, classes, _labelled(train, label, classes), asked)


def examine(
    records: Records,
    encoder: str,
    task: Task,
    spec: ClassificationSpec,
    seed: int,
    train: ImageFeatures,
    tests: dict[str, tuple[list[Picture], ImageFeatures]],
    on_step: Callable[[int], None],
) -> None:
    """Train the probe once, ask it about every test split and store the answers.

    Args:
        encoder: ``trained`` or ``untrained``.
        train: features of the train split, with patches.
        tests: pictures and features of the test splits.
    """
    probe = train_probe(_rows(train, task.train), len(task.classes), spec, seed, on_step)
    for split, (pictures, features) in tests.items():
        labelled = task.tests[split]
        predictions = predict(probe, _rows(features, labelled))
        sheet = Sheet(
            "classification", split, task.label, "image_to_class", encoder, len(task.classes),
            labelled.left_out, task.train_counts,
        )  # fmt: skip
        records.add(sheet, _samples(pictures, task.classes, labelled, predictions))


def _labelled(pictures: list[Picture], label: str, classes: tuple[str, ...]) -> Labelled:
    number = {name: place for place, name in enumerate(classes)}
    given = [picture.labels.get(label) for picture in pictures]
    known = [(row, number[name]) for row, name in enumerate(given) if name in number]
    reasons = Counter("unlabelled" if name is None else "unseen" for name in given if name not in number)
    rows, numbers = np.array(known, np.int64).reshape(-1, 2).T
    return Labelled(rows, numbers, dict(reasons))


def _rows(features: ImageFeatures, labelled: Labelled) -> Rows:
    if features.patches is None:
        raise ValueError("the probe needs patch features")
    return Rows(features.patches, labelled.rows, labelled.classes)


def _samples(
    pictures: list[Picture], classes: tuple[str, ...], labelled: Labelled, predictions: Predictions
) -> Iterator[dict[str, Any]]:
    for row, true, rank, top in zip(labelled.rows, labelled.classes, predictions.rank, predictions.top, strict=True):
        yield {
            "query": pictures[row].image,
            "label": classes[true],
            "rank": int(rank),
            "right": 1,
            "top": [classes[answer] for answer in top],
        }
