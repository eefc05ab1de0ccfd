"""Ranks both ways against answers worked by hand and against the plain N x M definition."""

import numpy as np
import pytest

from lcl_core.evaluation.metrics.core import recall_at
from lcl_core.evaluation.metrics.ranks import rank_bidirectional


def unit(rows, dtype=np.float64):
    values = np.array(rows, dtype)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def as_lists(got):
    return [got.text_to_image.rank.tolist(), got.image_to_text.rank.tolist()]


def test_one_caption_an_image_by_hand():
    images = np.eye(3)
    # Text 0 is right on its image; text 1 prefers image 2, then its own; text 2 prefers 0, then 1, then its
    # own.
    texts = np.array([[0.9, 0.1, 0.0], [0.1, 0.5, 0.6], [0.7, 0.6, 0.2]])
    got = rank_bidirectional(images, texts, np.array([[0, 0], [1, 1], [2, 2]]))
    # Columns: image 0 sees .9 .1 .7 (own first), image 1 sees .1 .5 .6 (own second), image 2 sees 0 .6 .2
    # (own second).
    assert as_lists(got) == [[1, 2, 3], [1, 2, 2]]
    assert got.text_to_image.top[:, :3].tolist() == [[0, 1, 2], [2, 1, 0], [0, 1, 2]]
    assert got.text_to_image.top[:, 3:].tolist() == [[-1, -1]] * 3
    assert got.image_to_text.candidates == got.text_to_image.candidates == 3


def test_several_captions_an_image_by_hand():
    images = np.eye(2)
    texts = np.array([[0.2, 0.0], [0.9, 0.3], [0.5, 0.4], [0.8, 0.1]])
    got = rank_bidirectional(images, texts, np.array([[0, 0], [0, 1], [1, 2], [1, 3]]))
    # Every caption is a query of its own: texts 2 and 3 prefer image 0.
    # Image 0 is found by its best caption (.9 > .8); its other caption at .2 does not count as a rival.
    # Image 1 sees 0 .3 .4 .1: its best caption, .4, leads.
    assert as_lists(got) == [[1, 1, 2, 2], [1, 1]]
    assert got.image_to_text.right.tolist() == [2, 2]


def test_a_text_with_several_right_images_is_found_by_the_best_of_them():
    images = unit([[1, 0], [0, 1], [1, 1]])
    texts = np.array([[1.0, 0.1]])  # image order: 0, 2, 1
    got = rank_bidirectional(images, texts, np.array([[1, 0], [2, 0]]))
    assert got.text_to_image.rank.tolist() == [2]  # only image 0 is ahead of image 2; image 1 is no rival
    assert got.text_to_image.right.tolist() == [2]
    assert got.image_to_text.query.tolist() == [
        1,
        2,
    ]  # image 0 has no text, so it is a candidate and no query


def test_a_tie_counts_against_the_query():
    same = unit([[1, 1]] * 4)
    got = rank_bidirectional(same, same, np.array([[i, i] for i in range(4)]))
    assert as_lists(got) == [[4] * 4, [4] * 4]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_images_tie_whatever_the_rounding_of_the_block(dtype):
    rng = np.random.default_rng(3)
    images = unit(rng.standard_normal((40, 96)).tolist(), dtype)
    images[20:] = images[:20]
    texts = unit((images + 0.01 * rng.standard_normal((40, 96))).tolist(), dtype)
    pairs = np.array([[i, i] for i in range(40)])
    for block in (1, 3, 7, 64):
        got = rank_bidirectional(images, texts, pairs, block=block)
        assert set(got.text_to_image.rank.tolist()) == {2}, block


def plain(images, texts, pairs):
    scores = texts @ images.T
    right = np.zeros(scores.shape, bool)
    right[pairs[:, 1], pairs[:, 0]] = True

    def ranks(scores, right):
        return [
            1 + int((row[~own] >= row[own].max()).sum()) for row, own in zip(scores, right, strict=True) if own.any()
        ]

    return [ranks(scores, right), ranks(scores.T, right.T)]


@pytest.mark.parametrize(("block", "threads"), [(1, 1), (2, 3), (5, 2), (16, 1), (1000, 4)])
def test_blocks_and_threads_do_not_change_the_answer(block, threads):
    rng = np.random.default_rng(7)
    images = unit(rng.standard_normal((23, 8)).tolist())
    texts = unit(rng.standard_normal((31, 8)).tolist())
    pairs = np.unique(np.stack([rng.integers(0, 20, 45), rng.integers(0, 29, 45)], axis=1), axis=0)
    got = rank_bidirectional(images, texts, rng.permutation(pairs), block=block, threads=threads, top=6)
    assert as_lists(got) == plain(images, texts, pairs)
    scores = texts @ images.T
    assert (got.text_to_image.top == np.argsort(-scores, axis=1)[got.text_to_image.query, :6]).all()
    assert (got.image_to_text.top == np.argsort(-scores.T, axis=1)[got.image_to_text.query, :6]).all()


def test_progress_is_reported_in_texts():
    seen: list[tuple[int, int]] = []
    rank_bidirectional(
        np.eye(5),
        np.eye(5),
        np.array([[0, 0]]),
        block=2,
        on_block=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_ties_at_the_edge_of_the_best_keep_their_order_with_several_threads():
    """Many equal scores: whichever thread meets them, the ones that come first are kept."""
    rng = np.random.default_rng(11)
    images, texts = unit(rng.integers(0, 2, (30, 3)) + 0.5), unit(rng.integers(0, 2, (60, 3)) + 0.5)
    pairs = np.stack([np.arange(60) % 30, np.arange(60)], axis=1)
    alone = rank_bidirectional(images, texts, pairs, block=4, threads=1)
    for threads in (2, 3, 5):
        got = rank_bidirectional(images, texts, pairs, block=4, threads=threads)
        assert (got.image_to_text.top == alone.image_to_text.top).all()
        assert (got.text_to_image.top == alone.text_to_image.top).all()
        assert as_lists(got) == as_lists(alone)


def test_read_only_arrays_and_an_error_in_progress():
    images = unit(np.random.default_rng(2).standard_normal((9, 4)))
    images.flags.writeable = False

    def stop(done, total):
        raise InterruptedError

    pairs = np.array([[i, i] for i in range(9)])
    assert as_lists(rank_bidirectional(images, images, pairs, block=4)) == [[1] * 9, [1] * 9]
    with pytest.raises(InterruptedError):
        rank_bidirectional(images, images, pairs, block=2, threads=2, on_block=stop)


def clip_benchmark_recall(images, texts, image_of_text, k):
    """Image and text retrieval recall at k as CLIP_benchmark 1.6 defines them, stated again.

    A query counts when at least one of its right candidates is among the k highest scores.
    """
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
    pairs = np.stack([image_of_text, np.arange(len(texts))], axis=1)
    got = rank_bidirectional(images, texts, pairs)
    for k in (1, 5, 10):
        ours = (recall_at(got.text_to_image.rank, k), recall_at(got.image_to_text.rank, k))
        assert ours == clip_benchmark_recall(images, texts, image_of_text, k)
        assert 0 < ours[0] < 1
