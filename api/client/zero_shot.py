"""Zero-shot classification from embeddings: probabilities of classes, and accuracy where the images have labels.

The arithmetic of the evaluation task ``zero_shot_classification``: a class is the normalised mean of the vectors of its
prompts, an image has the softmax of its scaled cosines with all classes, and a tie counts against the true class.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

try:
    import numpy as np
    from numpy.typing import NDArray
except ImportError as error:
    raise ImportError("zero-shot classification needs numpy: pip install 'lcl-client[zero-shot]'") from error

from api.client.payloads import Skipped, readable_path
from lcl_core.common.errors import UserError
from lcl_core.specs.zero_shot import LOGIT_SCALE, PLAIN_TEMPLATES, plain_class_name

_NORMAL_95 = 1.959963984540054  # quantile of the normal distribution for a 95 % interval


@dataclass(frozen=True)
class ZeroShotResult:
    """Predictions of images, in their order: ``probabilities`` of each is [C], by ``classes``."""

    classes: tuple[str, ...]
    templates: tuple[str, ...]
    names: list[Path] = field(default_factory=list)
    probabilities: list[NDArray[np.float64]] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def top(self, index: int, count: int) -> list[tuple[str, float]]:
        """The likeliest classes of an image with their probabilities."""
        row = self.probabilities[index]
        return [(self.classes[place], float(row[place])) for place in np.argsort(-row, kind="stable")[:count]]


@dataclass(frozen=True)
class LabeledAccuracy:
    """Accuracy over the ``count`` images whose label is one of the classes; ``left_out`` images have another, or none.

    ``interval``: 95 %, Wilson's; ``chance``: of a random choice; ``confusion``: [C, C], rows are labels.
    """

    value: float
    correct: int
    count: int
    interval: tuple[float, float]
    chance: float
    confusion: NDArray[np.int64]
    left_out: int


class ZeroShotClassifier:
    """Classes as unit vectors, from the vectors of their prompts.

    Raises: UserError ``invalid_value``, naming the field and what is wrong.
    """

    def __init__(self, classes: Sequence[str], templates: Sequence[str] = ()) -> None:
        self.classes = tuple(classes)
        self.templates = tuple(templates) or PLAIN_TEMPLATES
        if len(self.classes) < 2:
            raise UserError("give at least two classes", field="classes")
        for place, name in enumerate(self.classes):
            if not name:
                raise UserError("a class has no name", field="classes")
            if name in self.classes[:place]:
                raise UserError(f"class {name!r} is given twice", field="classes")
        for template in self.templates:
            if "{}" not in template:
                raise UserError(f"template {template!r} has no {{}} for the name of the class", field="templates")
        self._columns = np.empty((0, 0))

    def prompts(self) -> list[str]:
        """The texts to embed: all prompts of the first class, then of the next one."""
        return [template.replace("{}", name) for name in self.classes for template in self.templates]

    def fit(self, vectors: Sequence[Sequence[float]]) -> None:
        """Take the vectors of ``prompts()``."""
        means = np.asarray(vectors, np.float64).reshape(len(self.classes), len(self.templates), -1).mean(axis=1)
        lengths = np.linalg.norm(means, axis=1, keepdims=True)
        self._columns = (means / np.maximum(lengths, 1e-12)).T

    def probabilities(self, vectors: Sequence[Sequence[float]]) -> NDArray[np.float64]:
        """[n, C] of the vectors of images [n, E]."""
        logits = LOGIT_SCALE * np.asarray(vectors, np.float64) @ self._columns
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)


def label_accuracy(result: ZeroShotResult, labels: Sequence[str]) -> LabeledAccuracy | None:
    """Accuracy against the label of each image, found by ``match_labels``; None where none is one of the classes."""
    places = match_labels(result.classes, labels)
    rows = [(row, place) for row, place in enumerate(places) if place is not None]
    if not rows:
        return None
    size = len(result.classes)
    confusion = np.zeros((size, size), np.int64)
    correct = 0
    for row, true in rows:
        scores = result.probabilities[row]
        confusion[true, int(scores.argmax())] += 1
        correct += int((scores >= scores[true]).sum()) == 1
    count, interval = len(rows), wilson_interval(correct, len(rows))
    return LabeledAccuracy(correct / count, correct, count, interval, 1 / size, confusion, len(labels) - count)


def match_labels(classes: Sequence[str], labels: Sequence[str]) -> list[int | None]:
    """The class of each label, compared without case and with hyphens and underscores read as spaces.

    Other marks do not count, since names of folders cannot have all of them, unless several classes differ in them.
    """
    by_name = {plain_class_name(name).casefold(): place for place, name in enumerate(classes)}
    words = [_words(name) for name in classes]
    by_words = {each: place for place, each in enumerate(words) if each and words.count(each) == 1}
    return [by_name.get(plain_class_name(label).casefold(), by_words.get(_words(label))) for label in labels]


def wilson_interval(correct: int, count: int) -> tuple[float, float]:
    """95 % score interval of a share; unlike a bootstrap it is not empty where all or none are correct."""
    share, z2 = correct / count, _NORMAL_95**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _NORMAL_95 * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return max(0.0, centre - half), min(1.0, centre + half)


def folder_labels(names: Sequence[Path]) -> list[str]:
    """The label of each image: the name of the folder that it is in; empty without one."""
    return [name.parent.name for name in names]


def predictions_csv(result: ZeroShotResult) -> str:
    """One line an image: its name, the predicted class and its probability, its folder, the probability of each class.

    Beside the images the file is a dataset in the format ``table``, whose label is the predicted class.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["image", "label", "probability", "folder", *(f"p: {name}" for name in result.classes)])
    for index, (name, folder) in enumerate(zip(result.names, folder_labels(result.names), strict=True)):
        ((best, probability),) = result.top(index, 1)
        first, *others = (f"{value:.6f}" for value in (probability, *result.probabilities[index]))
        writer.writerow([readable_path(name.as_posix()), best, first, readable_path(folder), *others])
    return out.getvalue()


def _words(label: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", label.casefold()))
