"""Ranks, rank metrics, chance and intervals against arithmetic done by hand, simulation, and plain definitions."""

import numpy as np
import pytest

from lcl_core.evaluation import metrics
from lcl_core.evaluation.metrics import (
    BootstrapMetric,
    bootstrap_interval,
    chance_median_rank,
    chance_recall,
    class_mean,
    class_ranks,
    majority_accuracy,
    mean_of,
    median_of,
    rank_bidirectional,
)
from lcl_core.evaluation.results import PredictionFile, rank_metrics


def unit(rows, dtype=np.float64):
    values = np.array(rows, dtype)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def diagonal(count):
    return np.array([[number, number] for number in range(count)])


def ranks(images, texts, pairs, **more):
    of_images, of_texts = rank_bidirectional(images, texts, pairs, **more)
    return [of_texts.rank.tolist(), of_images.rank.tolist()]


def plain_ranks(images, texts, pairs):
    scores = texts @ images.T
    right = np.zeros(scores.shape, bool)
    right[pairs[:, 1], pairs[:, 0]] = True
    return [
        [1 + int((row[~own] >= row[own].max()).sum()) for row, own in zip(rows, owns, strict=True) if own.any()]
        for rows, owns in ((scores, right), (scores.T, right.T))
    ]


def test_one_caption_an_image_by_hand():
    # Text 0 is right on its image; text 1 prefers image 2, then its own; text 2 prefers 0, then 1, then its own.
    texts = np.array([[0.9, 0.1, 0.0], [0.1, 0.5, 0.6], [0.7, 0.6, 0.2]])
    of_images, of_texts = rank_bidirectional(np.eye(3), texts, diagonal(3))
    # Image 0 sees .9 .1 .7 (own first), image 1 sees .1 .5 .6 (own second), image 2 sees 0 .6 .2 (own second).
    assert (of_texts.rank.tolist(), of_images.rank.tolist()) == ([1, 2, 3], [1, 2, 2])
    assert of_texts.top.tolist() == [[0, 1, 2], [2, 1, 0], [0, 1, 2]]
    assert of_images.candidates == of_texts.candidates == 3


def test_several_captions_an_image_and_several_images_a_text():
    texts = np.array([[0.2, 0.0], [0.9, 0.3], [0.5, 0.4], [0.8, 0.1]])
    # Image 0 is found by its best caption (.9 > .8); its other caption at .2 is no rival of it.
    assert ranks(np.eye(2), texts, np.array([[0, 0], [0, 1], [1, 2], [1, 3]])) == [[1, 1, 2, 2], [1, 1]]
    of_images, of_texts = rank_bidirectional(
        unit([[1, 0], [0, 1], [1, 1]]), np.array([[1.0, 0.1]]), np.array([[1, 0], [2, 0]])
    )
    assert of_texts.rank.tolist() == [2], "only image 0 is ahead of image 2; image 1 is no rival"
    assert (of_texts.right.tolist(), of_images.query.tolist()) == ([2], [1, 2])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ties_count_against_the_query_whatever_the_rounding_of_the_block(dtype):
    same = unit([[1, 1]] * 4, dtype)
    assert ranks(same, same, diagonal(4)) == [[4] * 4, [4] * 4]
    rng = np.random.default_rng(3)
    images = unit(rng.standard_normal((40, 96)), dtype)
    images[20:] = images[:20]
    texts = unit(images + 0.01 * rng.standard_normal((40, 96)), dtype)
    for block in (1, 3, 7, 64):
        assert set(ranks(images, texts, diagonal(40), block=block)[0]) == {2}, block


@pytest.mark.parametrize("block", [1, 5, 16, None])
def test_blocks_do_not_change_the_answer(block):
    rng, seen = np.random.default_rng(7), []
    images, texts = unit(rng.standard_normal((23, 8))), unit(rng.standard_normal((31, 8)))
    images.flags.writeable = False
    pairs = np.unique(np.stack([rng.integers(0, 20, 45), rng.integers(0, 29, 45)], axis=1), axis=0)
    more = {"block": block, "top": 6, "on_block": lambda: seen.append(1)}
    of_images, of_texts = rank_bidirectional(images, texts, rng.permutation(pairs), **more)
    assert [of_texts.rank.tolist(), of_images.rank.tolist()] == plain_ranks(images, texts, pairs)
    scores = texts @ images.T
    assert (of_texts.top == np.argsort(-scores, axis=1)[of_texts.query, :6]).all()
    assert (of_images.top == np.argsort(-scores.T, axis=1)[of_images.query, :6]).all()
    assert len(seen) == -(-31 // (block or 31))


def clip_benchmark_recall(images, texts, image_of_text, k):
    """Image and text retrieval recall at k as CLIP_benchmark 1.6 defines them, stated again."""
    scores = texts @ images.T
    of_texts = np.argsort(-scores, axis=1)[:, :k] == image_of_text[:, None]
    of_images = image_of_text[np.argsort(-scores.T, axis=1)[:, :k]] == np.arange(len(images))[:, None]
    return float(of_texts.any(axis=1).mean()), float(of_images.any(axis=1).mean())


def test_recall_is_that_of_clip_benchmark():
    rng = np.random.default_rng(5)
    image_of_text = np.repeat(np.arange(40), rng.integers(1, 7, 40))  # several captions an image, not equally many
    rng.shuffle(image_of_text)
    images = unit(rng.standard_normal((40, 16)))
    texts = unit(images[image_of_text] + 1.5 * rng.standard_normal((len(image_of_text), 16)))
    of_texts, of_images = ranks(images, texts, np.stack([image_of_text, np.arange(len(texts))], axis=1))
    for k in (1, 5, 10):
        ours = tuple(float(np.mean(np.array(each) <= k)) for each in (of_texts, of_images))
        assert ours == clip_benchmark_recall(images, texts, image_of_text, k)
        assert 0 < ours[0] < 1


def test_class_ranks_count_ties_as_ahead():
    logits = np.array([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [1.0, 1.0, 0.0]])
    assert class_ranks(logits, np.array([0, 1, 0])).tolist() == [1, 3, 2]


def test_chance_and_majority_by_hand():
    one = np.array([1, 1])
    assert chance_recall(590, one, 5) == pytest.approx(5 / 590)
    # 5 right among 25: misses the first with 20/25, the first two with 20/25 x 19/24.
    assert chance_recall(25, np.array([5]), 2) == pytest.approx(1 - 20 / 25 * 19 / 24)
    assert chance_recall(4, np.array([1, 3]), 1) == pytest.approx((1 / 4 + 3 / 4) / 2)
    assert chance_recall(4, np.array([1]), 10) == 1  # fewer candidates than k
    assert chance_recall(4, np.array([3]), 2) == 1  # only one wrong one
    assert [chance_median_rank(count, np.array([1])) for count in (5, 4, 590)] == [3, 2.5, 295.5]
    # 2 right among 4: P(rank <= 1) = 1 - 3C2/4C2 = 1/2, so half-way between 1 and 2.
    assert chance_median_rank(4, np.array([2])) == 1.5
    counts, target = np.array([5, 9, 9, 1]), np.array([1, 1, 2, 0, 3])
    assert majority_accuracy(counts, target, 1) == 0.4  # class 1 wins its tie with 2 by order
    assert majority_accuracy(counts, target, 3) == 0.8


@pytest.mark.parametrize("k", [1, 3])
def test_chance_is_what_random_features_reach(k):
    rng, seen = np.random.default_rng(0), []
    pairs = np.array([[i // 3, i] for i in range(60)])  # 20 images with 3 captions each
    for _ in range(200):
        both = rank_bidirectional(rng.standard_normal((20, 32)), rng.standard_normal((60, 32)), pairs)
        seen.append([np.mean(side.rank <= k) for side in both])
    of_images, of_texts = np.mean(seen, axis=0)
    assert of_texts == pytest.approx(chance_recall(20, np.ones(60, int), k), abs=0.015)
    assert of_images == pytest.approx(chance_recall(60, np.full(20, 3), k), abs=0.02)


@pytest.mark.parametrize(
    ("statistic", "plain", "top", "within"), [(mean_of, np.mean, 2, 0.008), (median_of, np.median, 60, 1.5)]
)
def test_an_interval_is_the_bootstrap_one(statistic, plain, top, within):
    values = np.random.default_rng(1).integers(0, top, 400)
    found = bootstrap_interval(values, statistic, seed=5, draws=4000)
    drawn = plain(np.random.default_rng(2).choice(values, (4000, 400)), axis=1)
    assert found == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=within)
    assert bootstrap_interval(values, statistic, seed=5, draws=4000) == found
    assert bootstrap_interval(np.ones(9), statistic, seed=0) == (1.0, 1.0)


def test_median_of_counts_by_hand():
    counts = np.array([[2, 0, 2], [1, 1, 2], [0, 4, 0]])  # 1 1 9 9; 1 4 9 9; 4 4 4 4
    assert median_of(np.array([1.0, 4.0, 9.0]), counts).tolist() == [5.0, 6.5, 4.0]


def test_the_class_mean_weighs_classes_alike():
    samples = [
        {"query": str(n), "label": label, "rank": rank, "right": 1, "top": []}
        for n, (label, rank) in enumerate([("ant", 1), ("ant", 1), ("ant", 2), ("ant", 1), ("bee", 2), ("bee", 1)])
    ]
    about = ("c", "t", "kind", "frozen", "ranks", "trained")
    file = PredictionFile(*about, part="image_to_class", facts={"candidates": 4})
    found = {each.metric: each for each in rank_metrics(file, samples)}
    assert found["acc@1"].value == pytest.approx(4 / 6)
    assert found["acc@1 class mean"].value == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert found["acc@1 class mean"].chance == 1 / 4
    low, high = found["acc@1 class mean"].interval(seed=0)
    assert low < 0.625 < high


def test_a_class_mean_of_draws_leaves_out_classes_that_are_not_drawn():
    rng = np.random.default_rng(0)
    rows = np.stack([rng.integers(0, 5, 40), rng.integers(0, 2, 40)], axis=1).astype(float)
    counts = rng.integers(0, 3, (20, 40)) * (rows[:, 0] != 3) * (rng.random((20, 1)) < 0.9) + (rows[:, 0] == 1)
    expected = [
        np.mean([np.average(rows[own, 1], weights=draw[own]) for own in classes if draw[own].any()])
        for draw, classes in ((draw, [rows[:, 0] == number for number in range(5)]) for draw in counts)
    ]
    assert class_mean(rows, counts).tolist() == pytest.approx(expected)


def test_a_statistic_of_rows_is_given_rows():
    def pooled(rows, counts):
        totals = counts @ rows
        return totals[:, 0] / totals[:, 1]

    values = np.array([[1.0, 1.0], [1.0, 3.0], [1.0, 3.0]])
    found = BootstrapMetric("m", ["a", "b", "c"], values, pooled)
    assert found.value == pytest.approx(3 / 7)
    assert found.interval(seed=0) == (pytest.approx(1 / 3), pytest.approx(1.0))


def test_groups_are_drawn_whole():
    """Three equal images of each concept say no more than one: the interval is wider by the root of three."""
    once = (np.random.default_rng(0).random(200) < 0.3).astype(float)
    thrice, concepts = np.repeat(once, 3), [f"concept {n}" for n in range(200) for _ in range(3)]

    def width(values, groups):
        units = [str(n) for n in range(len(values))]
        low, high = BootstrapMetric("m", units, values, mean_of, groups=groups).interval(seed=0)
        return high - low

    assert width(thrice, concepts) == pytest.approx(width(once, None), rel=0.1)
    assert width(thrice, concepts) == pytest.approx(3**0.5 * width(thrice, None), rel=0.1)
    assert width(once, [""] * 200) == pytest.approx(width(once, None), rel=0.1)


def test_groups_of_different_sizes_and_statistics_of_ranks(monkeypatch):
    """Against a plain simulation: draw groups, join their values."""
    values, groups = np.array([1.0, 1, 2, 5, 5, 9]), ["a", "a", "b", "b", "c", "c"]
    found = bootstrap_interval(values, median_of, seed=0, groups=groups, draws=4000)
    rng, parts = np.random.default_rng(1), [values[:2], values[2:4], values[4:]]
    plain = [np.median(np.concatenate([parts[n] for n in rng.integers(0, 3, 3)])) for _ in range(4000)]
    assert found == tuple(np.quantile(plain, [0.025, 0.975]))
    monkeypatch.setattr(metrics, "MAX_DRAWN_NUMBERS", 50)
    assert bootstrap_interval(values, median_of, seed=0, groups=groups, draws=4000) == found
