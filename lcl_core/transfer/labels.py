"""Which pictures of which splits carry which classes: the questions of everything that classifies."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from lcl_core.errors import UserError
from lcl_core.transfer.gallery import Picture
from lcl_core.transfer.ranking import Ints


@dataclass(frozen=True)
class Labelled:
    """Pictures of a split that carry a label that can be known.

    Attributes:
        rows: [Q] their rows in the split.
        classes: [Q] their classes.
        left_out: pictures not asked about: ``unlabelled``, and ``unseen`` (their class is not in training).
    """

    rows: Ints
    classes: Ints
    left_out: dict[str, int]

    def __len__(self) -> int:
        return len(self.rows)

    def choose(self, picks: Ints) -> Labelled:
        """Those at ``picks``, in that order."""
        return Labelled(self.rows[picks], self.classes[picks], self.left_out)


@dataclass(frozen=True)
class LabelKey:
    """One label key: its classes (in alphabetical order, by number), who teaches and who is asked."""

    label: str
    classes: tuple[str, ...]
    train: Labelled
    tests: dict[str, Labelled]

    @property
    def train_counts(self) -> dict[str, int]:
        counts = np.bincount(self.train.classes, minlength=len(self.classes))
        return dict(zip(self.classes, counts.tolist(), strict=True))


def label_key(
    label: str, train_split: str, train: list[Picture], tests: dict[str, list[Picture]], *, field: str
) -> LabelKey:
    """Number the classes and pick the pictures.

    A closed set, as in the field: the classes are those of the train split, and a test picture of any other
    class is left out and counted, since no answer to it could be right.

    Args:
        field: the spec's field that names the label.

    Raises:
        UserError: ``label_unknown`` if no training picture has the label, ``nothing_to_score`` if a test
            split has no picture of a known class.
    """
    classes = classes_of(label, train_split, train, field=field)
    asked = {split: labelled(pictures, label, classes) for split, pictures in tests.items()}
    for split, found in asked.items():
        if not len(found):
            raise UserError(
                f"no picture of split {split!r} has a {label!r} that split {train_split!r} teaches "
                f"({found.left_out}); leave the label or the split out",
                code="nothing_to_score", field=field,
            )  # fmt: skip
    return LabelKey(label, classes, labelled(train, label, classes), asked)


def classes_of(label: str, split: str, pictures: list[Picture], *, field: str) -> tuple[str, ...]:
    """The split's different values of a label, in alphabetical order.

    Raises:
        UserError: ``label_unknown`` if there are fewer than two.
    """
    classes = tuple(sorted({picture.labels[label] for picture in pictures if label in picture.labels}))
    if len(classes) < 2:
        known = ", ".join(sorted({key for picture in pictures for key in picture.labels})) or "none"
        raise UserError(
            f"label {label!r} has {len(classes)} classes in split {split!r}; it takes two; "
            f"the split's labels: {known}",
            code="label_unknown", field=field,
        )  # fmt: skip
    return classes


def labelled(pictures: list[Picture], label: str, classes: tuple[str, ...]) -> Labelled:
    """The pictures whose ``label`` is one of ``classes``."""
    number = {name: place for place, name in enumerate(classes)}
    given = [picture.labels.get(label) for picture in pictures]
    known = [(row, number[name]) for row, name in enumerate(given) if name in number]
    reasons = Counter("unlabelled" if name is None else "unseen" for name in given if name not in number)
    rows, numbers = np.array(known, np.int64).reshape(-1, 2).T
    return Labelled(rows, numbers, dict(reasons))
