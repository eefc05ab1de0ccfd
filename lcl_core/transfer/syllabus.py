"""What a task that learns classes will teach and ask, settled before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass

from lcl_core.data import Corpus
from lcl_core.errors import UserError
from lcl_core.specs import ClassificationSpec, EvaluateSpec
from lcl_core.transfer.gallery import Picture
from lcl_core.transfer.holdout import Holdout, plan_holdout
from lcl_core.transfer.labels import LabelKey, label_key
from lcl_core.transfer.tasks.base import Places


@dataclass(frozen=True)
class Lesson:
    """A label key, and the pictures on which its hyper-parameters are chosen; none where none are."""

    key: LabelKey
    holdout: Holdout | None


@dataclass(frozen=True)
class Syllabus:
    """Attributes:
    train: pictures to learn from.
    galleries: pictures of each tested split.
    """

    train: list[Picture]
    galleries: dict[str, list[Picture]]
    lessons: list[Lesson]

    @property
    def pictures(self) -> int:
        return len(self.train) + sum(map(len, self.galleries.values()))


def plan_syllabus(
    own: ClassificationSpec, spec: EvaluateSpec, corpus: Corpus, places: Places, *, field: str
) -> Syllabus:
    """Read the splits, number the classes, hold pictures out where there is something to choose.

    Args:
        field: of the evaluation's spec that holds ``own``.

    Raises:
        UserError: a split is empty, has no known labels or is used for two things; names the field.
    """
    galleries = places.tested(spec, corpus)
    labels = tuple(dict.fromkeys(own.labels))
    train = _teachers(own, spec, corpus, places, labels, field)
    lessons = []
    for label in labels:
        place = own.labels.index(label)
        key = label_key(label, own.train_split, train, galleries, field=f"{field}.labels.{place}")
        lessons.append(Lesson(key, plan_holdout(own, spec, corpus, places, key, train=train, field=field)))
    return Syllabus(train, galleries, lessons)


def _teachers(
    own: ClassificationSpec, spec: EvaluateSpec, corpus: Corpus, places: Places, labels: tuple[str, ...], field: str
) -> list[Picture]:
    """The pictures to learn from: those of the train split that have any of the labels."""
    split = own.train_split
    if split in spec.splits:
        raise UserError(
            f"{field} learns from split {split!r}, so it cannot be examined on it; "
            f"name another in splits or in {field}.train_split",
            code="train_split_tested", field=f"splits.{spec.splits.index(split)}",
        )  # fmt: skip
    pictures = places.gallery(corpus, split, spec.source, field=f"{field}.train_split")
    taught = [picture for picture in pictures if not picture.labels.keys().isdisjoint(labels)]
    return taught or pictures  # with none, the complaint about the label can name those that there are
