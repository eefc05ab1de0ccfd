"""Pictures held out of training, on which hyper-parameters are chosen. Never those of a tested split."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lcl_core.data import Corpus
from lcl_core.errors import UserError
from lcl_core.specs import ClassificationSpec, EvaluateSpec
from lcl_core.transfer.gallery import Picture
from lcl_core.transfer.labels import LabelKey, Labelled, labelled
from lcl_core.transfer.ranking import Ints
from lcl_core.transfer.tasks.base import Places

SHARE = 0.1  # of the training pictures, where no split is named


@dataclass(frozen=True)
class Holdout:
    """Who is asked while hyper-parameters are chosen, and who teaches meanwhile.

    Attributes:
        split: where the pictures come from.
        pictures: of that split.
        asked: those of them that are held out.
        teachers: rows of the training pictures that are not.
    """

    split: str
    pictures: list[Picture]
    asked: Labelled
    teachers: Labelled

    def taught_by(self, teachers: Labelled) -> Holdout:
        """The same pictures, asked after learning from others."""
        return replace(self, teachers=teachers)


def plan_holdout(
    own: ClassificationSpec,
    spec: EvaluateSpec,
    corpus: Corpus,
    places: Places,
    key: LabelKey,
    *,
    train: list[Picture],
    field: str,
) -> Holdout | None:
    """None where there is nothing to choose.

    Raises:
        UserError: ``validation_split_used`` or ``nothing_to_score``, when the validation split is tested or learnt
            from, or has no picture of a known class.
    """
    if not own.search:
        return None
    if own.validation_split is None:
        held, taught = split_off(key.train, spec.seed)
        return Holdout(own.train_split, train, held, taught)
    return _named(own.validation_split, own.train_split, spec, corpus, places, key, field)


def split_off(teachers: Labelled, seed: int) -> tuple[Labelled, Labelled]:
    """A seeded tenth, at least one picture, and the rest."""
    held, taught = tenth(len(teachers), seed)
    return teachers.choose(held), teachers.choose(taught)


def tenth(count: int, seed: int) -> tuple[Ints, Ints]:
    """A seeded tenth of the numbers below ``count``, at least one, and the others; both ascending."""
    order = np.random.default_rng(seed).permutation(count)
    held = max(1, round(SHARE * count))
    return np.sort(order[:held]), np.sort(order[held:])


def _named(
    split: str, train_split: str, spec: EvaluateSpec, corpus: Corpus, places: Places, key: LabelKey, field: str
) -> Holdout:
    pictures = validation_pictures(split, train_split, spec, corpus, places, field=field)
    asked = labelled(pictures, key.label, key.classes)
    if not len(asked):
        raise UserError(
            f"no picture of split {split!r} has a {key.label!r} that split {train_split!r} teaches",
            code="nothing_to_score", field=f"{field}.validation_split",
        )  # fmt: skip
    return Holdout(split, pictures, asked, key.train)


def validation_pictures(
    split: str, train_split: str, spec: EvaluateSpec, corpus: Corpus, places: Places, *, field: str
) -> list[Picture]:
    """The pictures of a split of ``corpus`` that hyper-parameters may be chosen on.

    Raises:
        UserError: ``validation_split_used``, or the split is empty.
    """
    if split in spec.splits or split == train_split:
        use = "examined" if split in spec.splits else "learnt from"
        raise UserError(
            f"split {split!r} is {use}, so nothing may be chosen on it; name another in {field}.validation_split, or "
            "none for a tenth of the training pictures",
            code="validation_split_used", field=f"{field}.validation_split",
        )  # fmt: skip
    return places.gallery(corpus, split, spec.source, field=f"{field}.validation_split")
