"""Pictures held out: a seeded tenth, apart from those that teach."""

from __future__ import annotations

import numpy as np

from lcl_core.evaluation.tasks.base import LabeledImages, hold_out


def teachers(count: int) -> LabeledImages:
    rows = np.arange(count) * 3
    return LabeledImages(rows, rows % 5, {})


def test_a_tenth_is_held_out_and_nobody_is_lost() -> None:
    held, taught = hold_out(teachers(40), seed=1)
    assert (len(held), len(taught)) == (4, 36)
    assert sorted([*held.rows, *taught.rows]) == teachers(40).rows.tolist()
    assert (held.classes == held.rows % 5).all()
    assert (taught.classes == taught.rows % 5).all()


def test_the_seed_decides_who() -> None:
    first, again, other = (hold_out(teachers(40), seed=seed)[0].rows.tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_a_few_pictures_still_spare_one() -> None:
    held, taught = hold_out(teachers(3), seed=0)
    assert (len(held), len(taught)) == (1, 2)
