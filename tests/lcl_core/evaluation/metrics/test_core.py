"""Metrics, chance and intervals against arithmetic done by hand or by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from lcl_core.evaluation.metrics import core
from lcl_core.evaluation.metrics.ranks import rank_bidirectional


def test_recall_and_median_by_hand() -> None:
    rank = np.array([1, 2, 5, 6, 40])
    assert [core.recall_at(rank, k) for k in (1, 5, 10)] == [0.2, 0.6, 0.8]
    assert core.median_rank(rank) == 5
    assert core.median_rank(rank[:4]) == 3.5


def test_class_ranks_count_ties_as_ahead() -> None:
    logits = np.array([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [1.0, 1.0, 0.0]])
    assert core.class_ranks(logits, np.array([0, 1, 0])).tolist() == [1, 3, 2]


def test_chance_recall_by_hand() -> None:
    one = np.array([1, 1])
    assert core.chance_recall(590, one, 5) == pytest.approx(5 / 590)
    # 5 right among 25: misses the first with 20/25, the first two with 20/25 x 19/24.
    assert core.chance_recall(25, np.array([5]), 2) == pytest.approx(1 - 20 / 25 * 19 / 24)
    assert core.chance_recall(4, np.array([1, 3]), 1) == pytest.approx((1 / 4 + 3 / 4) / 2)
    assert core.chance_recall(4, np.array([1]), 10) == 1  # fewer candidates than k
    assert core.chance_recall(4, np.array([3]), 2) == 1  # only one wrong one


def test_chance_median_rank_by_hand() -> None:
    assert core.chance_median_rank(5, np.array([1])) == 3
    assert core.chance_median_rank(4, np.array([1])) == 2.5
    assert core.chance_median_rank(590, np.array([1, 1])) == 295.5
    # 2 right among 4: P(rank <= 1) = 1 - 3C2/4C2 = 1/2, so half-way between 1 and 2.
    assert core.chance_median_rank(4, np.array([2])) == 1.5


@pytest.mark.parametrize("k", [1, 3])
def test_chance_is_what_random_features_reach(k: int) -> None:
    rng = np.random.default_rng(0)
    pairs = np.array([[i // 3, i] for i in range(60)])  # 20 images with 3 captions each
    seen = []
    for _ in range(200):
        images, texts = rng.standard_normal((20, 32)), rng.standard_normal((60, 32))
        got = rank_bidirectional(images, texts, pairs)
        seen.append([core.recall_at(side.rank, k) for side in (got.text_to_image, got.image_to_text)])
    ir, tr = np.mean(seen, axis=0)
    assert ir == pytest.approx(core.chance_recall(20, np.ones(60, int), k), abs=0.015)
    assert tr == pytest.approx(core.chance_recall(60, np.full(20, 3), k), abs=0.02)


def test_majority_accuracy_by_hand() -> None:
    counts = np.array([5, 9, 9, 1])
    target = np.array([1, 1, 2, 0, 3])
    assert core.majority_accuracy(counts, target, 1) == 0.4  # class 1 wins its tie with 2 by order
    assert core.majority_accuracy(counts, target, 3) == 0.8


def test_interval_of_a_mean_is_the_bootstrap_one() -> None:
    values = np.random.default_rng(1).integers(0, 2, 400)
    low, high = core.bootstrap_interval(values, core.mean_of, seed=5, draws=4000)
    drawn = np.random.default_rng(2).choice(values, (4000, 400)).mean(axis=1)
    assert [low, high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]).tolist(), abs=0.008)
    assert core.bootstrap_interval(values, core.mean_of, seed=5, draws=4000) == (low, high)


def test_interval_of_a_median_is_the_bootstrap_one() -> None:
    values = np.random.default_rng(1).integers(1, 60, 100)
    low, high = core.bootstrap_interval(values, core.median_of, seed=0, draws=4000)
    drawn = np.median(np.random.default_rng(2).choice(values, (4000, 100)), axis=1)
    assert [low, high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]).tolist(), abs=1.5)


def test_median_of_counts_by_hand() -> None:
    distinct = np.array([1.0, 4.0, 9.0])
    counts = np.array([[2, 0, 2], [1, 1, 2], [0, 4, 0]])  # 1 1 9 9; 1 4 9 9; 4 4 4 4
    assert core.median_of(distinct, counts).tolist() == [5.0, 6.5, 4.0]


def test_interval_of_certainty_has_no_width() -> None:
    assert core.bootstrap_interval(np.ones(9), core.mean_of, seed=0) == (1.0, 1.0)
