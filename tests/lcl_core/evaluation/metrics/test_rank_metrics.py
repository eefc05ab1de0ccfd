"""Accuracy class by class, by hand."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from lcl_core.evaluation.metrics.core import class_mean
from lcl_core.evaluation.results import PredictionFile, rank_metrics


def test_the_class_mean_weighs_classes_alike() -> None:
    samples = [
        {"query": str(n), "label": label, "rank": rank, "right": 1, "top": []}
        for n, (label, rank) in enumerate([("ant", 1), ("ant", 1), ("ant", 2), ("ant", 1), ("bee", 2), ("bee", 1)])
    ]
    sheet = PredictionFile(
        "c", "t", "kind", "frozen", "ranks", "trained", part="image_to_class", facts={"candidates": 4}
    )
    measures = {measure.metric: measure for measure in rank_metrics(sheet, samples)}
    assert measures["acc@1"].value == pytest.approx(4 / 6)
    assert measures["acc@1 class mean"].value == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert measures["acc@1 class mean"].chance == 1 / 4
    low, high = measures["acc@1 class mean"].interval(seed=0)
    assert low < 0.625 < high


def test_a_class_that_is_not_drawn_does_not_count() -> None:
    rows = np.array([[7.0, 1.0], [7.0, 0.0], [9.0, 1.0]])
    counts = np.array([[1, 3, 2], [2, 2, 0], [0, 0, 5]])
    assert class_mean(rows, counts).tolist() == pytest.approx([(1 / 4 + 1) / 2, 1 / 2, 1])


def test_rows_of_a_class_need_not_be_neighbours() -> None:
    rng = np.random.default_rng(0)
    rows = np.stack([rng.integers(0, 5, 40), rng.integers(0, 2, 40)], axis=1).astype(float)
    counts = rng.integers(0, 3, (20, 40))
    shares = [
        [
            np.average(rows[own, 1], weights=draw[own])
            for own in (rows[:, 0] == number for number in range(5))
            if draw[own].any()
        ]
        for draw in counts
    ]
    assert class_mean(rows, counts).tolist() == pytest.approx([np.mean(each) for each in shares])


def test_memory_grows_with_the_classes_not_with_their_square() -> None:
    classes = 20_000
    rows = np.stack([np.repeat(np.arange(classes), 2), np.tile([0, 1], classes)], axis=1).astype(float)
    counts = np.ones((10, 2 * classes), np.int64)
    tracemalloc.start()
    assert class_mean(rows, counts).tolist() == [0.5] * 10
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * counts.nbytes
