"""Few images of each class: seeded, nested, and the same whatever else is drawn."""

from __future__ import annotations

import numpy as np

from lcl_core.evaluation.tasks.base import LabeledImages
from lcl_core.evaluation.tasks.classification import sample_orders, subset

TRAIN = LabeledImages(np.arange(100, 160), np.repeat([0, 1, 2], (30, 28, 2)), {})


def drawn(draw: int, shots: int, *, draws: int = 3, seed: int = 7) -> set[int]:
    return set(subset(TRAIN, sample_orders(TRAIN, draws, seed)[draw], shots).rows.tolist())


def test_each_class_gives_as_many_as_it_can() -> None:
    chosen = subset(TRAIN, sample_orders(TRAIN, 1, 0)[0], 4)
    assert np.bincount(chosen.classes).tolist() == [4, 4, 2]
    assert (chosen.classes == TRAIN.classes[chosen.rows - 100]).all()


def test_fewer_shots_are_among_more() -> None:
    assert drawn(1, 1) < drawn(1, 4) < drawn(1, 16)


def test_draws_differ_and_do_not_depend_on_how_many_there_are() -> None:
    assert drawn(0, 4) != drawn(1, 4)
    assert drawn(1, 4) == drawn(1, 4, draws=9)
    assert drawn(1, 4) != drawn(1, 4, seed=8)
