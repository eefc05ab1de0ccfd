"""Rank metrics, chance and intervals against arithmetic done by hand or by simulation."""

import tracemalloc

import numpy as np
import pytest

from lcl_core.evaluation.metrics import core
from lcl_core.evaluation.metrics.core import BootstrapMetric, class_mean
from lcl_core.evaluation.metrics.ranks import rank_bidirectional
from lcl_core.evaluation.results import PredictionFile, few_shot_metrics, rank_metrics


def test_recall_and_median_by_hand():
    rank = np.array([1, 2, 5, 6, 40])
    assert [core.recall_at(rank, k) for k in (1, 5, 10)] == [0.2, 0.6, 0.8]
    assert core.median_rank(rank) == 5
    assert core.median_rank(rank[:4]) == 3.5


def test_class_ranks_count_ties_as_ahead():
    logits = np.array([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [1.0, 1.0, 0.0]])
    assert core.class_ranks(logits, np.array([0, 1, 0])).tolist() == [1, 3, 2]


def test_chance_recall_by_hand():
    one = np.array([1, 1])
    assert core.chance_recall(590, one, 5) == pytest.approx(5 / 590)
    # 5 right among 25: misses the first with 20/25, the first two with 20/25 x 19/24.
    assert core.chance_recall(25, np.array([5]), 2) == pytest.approx(1 - 20 / 25 * 19 / 24)
    assert core.chance_recall(4, np.array([1, 3]), 1) == pytest.approx((1 / 4 + 3 / 4) / 2)
    assert core.chance_recall(4, np.array([1]), 10) == 1  # fewer candidates than k
    assert core.chance_recall(4, np.array([3]), 2) == 1  # only one wrong one


def test_chance_median_rank_by_hand():
    assert core.chance_median_rank(5, np.array([1])) == 3
    assert core.chance_median_rank(4, np.array([1])) == 2.5
    assert core.chance_median_rank(590, np.array([1, 1])) == 295.5
    # 2 right among 4: P(rank <= 1) = 1 - 3C2/4C2 = 1/2, so half-way between 1 and 2.
    assert core.chance_median_rank(4, np.array([2])) == 1.5


@pytest.mark.parametrize("k", [1, 3])
def test_chance_is_what_random_features_reach(k):
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


def test_majority_accuracy_by_hand():
    counts = np.array([5, 9, 9, 1])
    target = np.array([1, 1, 2, 0, 3])
    assert core.majority_accuracy(counts, target, 1) == 0.4  # class 1 wins its tie with 2 by order
    assert core.majority_accuracy(counts, target, 3) == 0.8


def test_interval_of_a_mean_is_the_bootstrap_one():
    values = np.random.default_rng(1).integers(0, 2, 400)
    low, high = core.bootstrap_interval(values, core.mean_of, seed=5, draws=4000)
    drawn = np.random.default_rng(2).choice(values, (4000, 400)).mean(axis=1)
    assert [low, high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]).tolist(), abs=0.008)
    assert core.bootstrap_interval(values, core.mean_of, seed=5, draws=4000) == (low, high)


def test_interval_of_a_median_is_the_bootstrap_one():
    values = np.random.default_rng(1).integers(1, 60, 100)
    low, high = core.bootstrap_interval(values, core.median_of, seed=0, draws=4000)
    drawn = np.median(np.random.default_rng(2).choice(values, (4000, 100)), axis=1)
    assert [low, high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]).tolist(), abs=1.5)


def test_median_of_counts_by_hand():
    distinct = np.array([1.0, 4.0, 9.0])
    counts = np.array([[2, 0, 2], [1, 1, 2], [0, 4, 0]])  # 1 1 9 9; 1 4 9 9; 4 4 4 4
    assert core.median_of(distinct, counts).tolist() == [5.0, 6.5, 4.0]


def test_interval_of_certainty_has_no_width():
    assert core.bootstrap_interval(np.ones(9), core.mean_of, seed=0) == (1.0, 1.0)


def test_the_class_mean_weighs_classes_alike():
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


def test_a_class_that_is_not_drawn_does_not_count():
    rows = np.array([[7.0, 1.0], [7.0, 0.0], [9.0, 1.0]])
    counts = np.array([[1, 3, 2], [2, 2, 0], [0, 0, 5]])
    assert class_mean(rows, counts).tolist() == pytest.approx([(1 / 4 + 1) / 2, 1 / 2, 1])


def test_rows_of_a_class_need_not_be_neighbours():
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


def test_memory_grows_with_the_classes_not_with_their_square():
    classes = 20_000
    rows = np.stack([np.repeat(np.arange(classes), 2), np.tile([0, 1], classes)], axis=1).astype(float)
    counts = np.ones((10, 2 * classes), np.int64)
    tracemalloc.start()
    assert class_mean(rows, counts).tolist() == [0.5] * 10
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * counts.nbytes


def test_by_hand():
    samples = [{"query": "a", "label": "x", "ranks": [1, 1]}, {"query": "b", "label": "y", "ranks": [1, 6]}]
    sheet = PredictionFile("few_shot", "t", "kind", "frozen", "draws", "trained", facts={"candidates": 8})
    first, fifth = few_shot_metrics(sheet, samples)
    assert (first.metric, first.value, first.chance) == ("acc@1", 0.75, 1 / 8)
    assert first.spread == pytest.approx(0.5 / 2**0.5)  # draws reach 1 and .5
    assert first.values.tolist() == [1.0, 0.5]
    assert (fifth.value, fifth.chance) == (0.75, 5 / 8)


def test_value_and_interval_of_single_numbers():
    values = np.arange(101.0)
    median = BootstrapMetric("m", [str(n) for n in range(101)], values, core.median_of)
    assert median.value == 50
    low, high = median.interval(seed=0)
    assert 35 < low < 50 < high < 65


def test_a_statistic_of_rows_is_given_rows():
    def pooled(rows, counts):
        totals = counts @ rows
        return totals[:, 0] / totals[:, 1]

    values = np.array([[1.0, 1.0], [1.0, 3.0], [1.0, 3.0]])
    measure = BootstrapMetric("m", ["a", "b", "c"], values, pooled)
    assert measure.value == pytest.approx(3 / 7)
    low, high = measure.interval(seed=0)
    assert (low, high) == (pytest.approx(1 / 3), pytest.approx(1.0))


def test_groups_are_drawn_whole():
    """Three equal images of each concept say no more than one: the interval is wider by the root of three."""
    rng = np.random.default_rng(0)
    once = (rng.random(200) < 0.3).astype(float)
    thrice, concepts = np.repeat(once, 3), [f"concept {n}" for n in range(200) for _ in range(3)]

    def width(values, groups):
        units = [str(n) for n in range(len(values))]
        low, high = BootstrapMetric("m", units, values, core.mean_of, groups=groups).interval(seed=0)
        assert low < values.mean() < high
        return high - low

    assert width(thrice, concepts) == pytest.approx(width(once, None), rel=0.1)
    assert width(thrice, concepts) == pytest.approx(3**0.5 * width(thrice, None), rel=0.1)
    assert width(once, [str(n) for n in range(200)]) == pytest.approx(width(once, None), rel=0.1)
    assert width(once, [""] * 200) == pytest.approx(width(once, None), rel=0.1)


def test_groups_of_different_sizes_and_statistics_of_ranks(monkeypatch):
    """Against a plain simulation: draw groups, join their values."""
    values, groups = np.array([1.0, 1, 2, 5, 5, 9]), ["a", "a", "b", "b", "c", "c"]
    found = core.bootstrap_interval(values, core.median_of, seed=0, groups=groups, draws=4000)
    rng = np.random.default_rng(1)
    parts = [values[:2], values[2:4], values[4:]]
    plain = [np.median(np.concatenate([parts[n] for n in rng.integers(0, 3, 3)])) for _ in range(4000)]
    assert found == tuple(np.quantile(plain, [0.025, 0.975]))
    monkeypatch.setattr(core, "MAX_DRAWN_NUMBERS", 50)
    assert core.bootstrap_interval(values, core.median_of, seed=0, groups=groups, draws=4000) == found
