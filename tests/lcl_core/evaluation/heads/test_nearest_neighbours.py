"""Nearest neighbours: by hand, whatever the blocks, and of equals the earlier image."""

import math

import numpy as np
import pytest
import torch

from lcl_core.evaluation.heads.nearest_neighbours import nearest_neighbours, neighbour_votes, predict_by_neighbours

CPU = torch.device("cpu")


def at_degrees(*angles):
    """Vectors in the plane, of different lengths: only the direction counts."""
    turns = np.radians(angles)
    return (np.stack([np.cos(turns), np.sin(turns)], axis=1) * np.arange(1, 1 + len(angles))[:, None]).astype("float32")


def test_votes_by_hand():
    train = at_degrees(0, 10, 20, 90, 180)
    classes = torch.tensor([0, 1, 1, 2, 3])
    similarity, rows = nearest_neighbours(at_degrees(1), train, np.arange(5), 3, device=CPU)
    assert rows.tolist() == [[0, 1, 2]]
    cosines = [math.cos(math.radians(angle)) for angle in (1, 9, 19)]
    np.testing.assert_allclose(similarity, [cosines], atol=1e-6)
    first, second, third = (math.exp(cosine / 0.07) for cosine in cosines)
    shares = neighbour_votes(similarity, classes[rows], 4, 0.07)
    total = first + second + third
    np.testing.assert_allclose(shares, [[first / total, (second + third) / total, 0, 0]], atol=1e-5)
    found = predict_by_neighbours(similarity, classes[rows], np.array([1]), 4, 0.07, field="classification.knn")
    assert (found.rank[0], found.top[0, 0]) == (1, 1)  # the nearest image is of class 0, two others outvote it
    assert found.probability[0] == pytest.approx((second + third) / total, abs=1e-5)


def test_one_neighbour_decides_and_classes_without_votes_tie():
    classes = torch.tensor([0, 1, 1, 2, 3])
    similarity, rows = nearest_neighbours(at_degrees(1, 1), at_degrees(0, 10, 20, 90, 180), np.arange(5), 1, device=CPU)
    found = predict_by_neighbours(similarity, classes[rows], np.array([0, 2]), 4, 0.07, field="classification.knn")
    assert found.rank.tolist() == [1, 4]
    assert found.probability.tolist() == [1, 0]


def test_blocks_change_nothing_and_all_pairs_are_counted():
    rng = np.random.default_rng(0)
    train, queries = (rng.standard_normal((count, 8)).astype("float32") for count in (101, 23))
    rows = np.arange(1, 101, 2)
    units, tested = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (train[rows], queries))
    expected = np.argsort(-(tested @ units.T), axis=1)[:, :7]
    counts: list[int] = []
    for train_block, query_block in ((1000, 1000), (5, 4), (3, 23)):
        counts.clear()
        similarity, found = nearest_neighbours(
            queries, train, rows, 7, device=CPU, train_block=train_block, query_block=query_block,
            on_pairs=counts.append,
        )  # fmt: skip
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_allclose(similarity, np.take_along_axis(tested @ units.T, expected, 1), atol=1e-6)
        assert sum(counts) == 23 * 50


def test_of_equals_the_earlier_images_are_the_neighbours():
    train = at_degrees(30, 0, 0, 0, 0, 30)
    for train_block in (2, 4, 6):
        _, rows = nearest_neighbours(at_degrees(0), train, np.arange(6), 3, device=CPU, train_block=train_block)
        assert rows.tolist() == [[1, 2, 3]]


def test_a_small_temperature_overflows_nothing():
    shares = neighbour_votes(torch.tensor([[1.0, 0.5]]), torch.tensor([[0, 1]]), 2, 1e-4)
    assert shares.tolist() == [[1.0, 0.0]]
