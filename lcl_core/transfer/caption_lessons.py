"""Which captions of which pictures are learnt, and on which pictures hyper-parameters are chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lcl_core.data import Corpus
from lcl_core.errors import UserError
from lcl_core.specs import EvaluateSpec
from lcl_core.transfer.gallery import Picture
from lcl_core.transfer.holdout import tenth, validation_pictures

if TYPE_CHECKING:
    from lcl_core.transfer.tasks.base import Places

FIELD = "captioning"
Lesson = tuple[int, str]  # a picture's row, and a caption of it


def lessons_of(pictures: Sequence[Picture], position: int | None) -> list[Lesson]:
    """Every caption with its picture; with ``position`` those at that place alone. Empty ones teach nothing."""
    return [
        (row, caption)
        for row, picture in enumerate(pictures)
        for caption in (picture.captions if position is None else picture.captions[position : position + 1])
        if caption.strip()
    ]


def most_frequent(lessons: Sequence[Lesson]) -> str | None:
    """The most frequent caption, spaces aside; of equals the first. None where there is none."""
    counted = Counter(" ".join(caption.split()) for _, caption in lessons)
    return counted.most_common(1)[0][0] if counted else None


@dataclass(frozen=True)
class HeldOut:
    """Pictures on which hyper-parameters are chosen.

    Attributes:
        split, pictures: where they come from.
        rows: those of them that are asked about.
        taught: rows of the training pictures that teach meanwhile.
    """

    split: str
    pictures: list[Picture]
    rows: list[int]
    taught: frozenset[int]


def teachers(spec: EvaluateSpec, corpus: Corpus, teacher: Corpus, places: Places) -> list[Picture]:
    """The pictures to learn from.

    Raises:
        UserError: ``train_split_tested``, ``nothing_to_learn``, or the split is empty.
    """
    own = spec.captioning
    if teacher.path == corpus.path and own.train_split in spec.splits:
        raise UserError(
            f"{FIELD} learns from split {own.train_split!r}, so it cannot be examined on it; "
            f"name another in splits or in {FIELD}.train_split",
            code="train_split_tested", field=f"splits.{spec.splits.index(own.train_split)}",
        )  # fmt: skip
    source = spec.source if teacher.path == corpus.path else None
    pictures = places.gallery(teacher, own.train_split, source, field=f"{FIELD}.train_split")
    if not lessons_of(pictures, own.caption):
        raise UserError(
            f"no picture of split {own.train_split!r} has the caption to learn; give {FIELD}.caption another place",
            code="nothing_to_learn", field=f"{FIELD}.caption",
        )  # fmt: skip
    return pictures


def held_out(
    spec: EvaluateSpec, corpus: Corpus, teacher: Corpus, places: Places, train: list[Picture]
) -> HeldOut | None:
    """Pictures of the named split, else a seeded tenth of the training pictures; none where nothing is searched.

    Raises:
        UserError: ``validation_split_used``, ``nothing_to_score``, or the split is empty.
    """
    own = spec.captioning
    if not own.search:
        return None
    split = own.validation_split
    if split is None:
        told = [row for row, picture in enumerate(train) if picture.captions]
        held = [told[place] for place in tenth(len(told), spec.seed)[0]]
        return HeldOut(own.train_split, train, held, frozenset(range(len(train))) - frozenset(held))
    pictures = validation_pictures(split, own.train_split, spec, teacher, places, field=FIELD)
    rows = [row for row, picture in enumerate(pictures) if picture.captions]
    if not rows:
        raise UserError(
            f"split {split!r} has no captions to choose by", code="nothing_to_score", field=f"{FIELD}.validation_split"
        )
    return HeldOut(split, pictures, rows, frozenset(range(len(train))))
