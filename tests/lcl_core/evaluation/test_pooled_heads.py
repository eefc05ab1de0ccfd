"""Logistic regression is the minimum of its loss; nearest neighbours by hand and whatever the blocks."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lcl_core.evaluation import classifiers
from lcl_core.evaluation.classifiers import (
    fit_logistic_regression,
    nearest_neighbours,
    predict_by_neighbours,
)

CLASSES = 4


def clusters(images, dtype=torch.float64):
    """Unit vectors with a large mean in common, as pooled latents have; classes overlap."""
    rng = np.random.default_rng(0)
    classes = rng.integers(0, CLASSES, images)
    centres = rng.standard_normal((CLASSES, 12))
    rows = 5 + centres[classes] + 1.5 * rng.standard_normal((images, 12))
    return F.normalize(torch.from_numpy(rows), dim=1).to(dtype), torch.from_numpy(classes)


@pytest.mark.parametrize("l2", [1e-2, 1.0, 100.0, 1e6])
def test_the_gradient_is_zero_where_the_fit_ends(l2):
    rows, classes = clusters(300)
    model = fit_logistic_regression(rows, classes, CLASSES, l2, iterations=1000)
    weights, bias = model.weights.requires_grad_(), model.bias.requires_grad_()
    loss = F.cross_entropy(rows @ weights + bias, classes, reduction="sum") + l2 * weights.square().sum() / 2
    assert float(loss.detach()) / 300 == pytest.approx(model.losses[-1], rel=1e-6)
    for gradient in torch.autograd.grad(loss, (weights, bias)):
        assert gradient.abs().max() / 300 < 1e-5


@pytest.mark.parametrize("l2", [1e-2, 1.0, 100.0, 1e6])
def test_it_agrees_with_scikit_learn(l2):
    linear_model = pytest.importorskip("sklearn.linear_model")
    rows, classes = clusters(300)
    theirs = linear_model.LogisticRegression(C=1 / l2, max_iter=10_000, tol=1e-9).fit(rows.numpy(), classes.numpy())
    ours = fit_logistic_regression(rows, classes, CLASSES, l2, iterations=1000)
    np.testing.assert_allclose(ours.weights.T, theirs.coef_, atol=2e-3 * np.abs(theirs.coef_).max())
    probabilities = ours.logits(rows).softmax(dim=1)
    np.testing.assert_allclose(probabilities, theirs.predict_proba(rows.numpy()), atol=1e-4)


def test_single_precision_blocks_and_scale_change_no_prediction(monkeypatch):
    rows, classes = clusters(300)
    exact = fit_logistic_regression(rows, classes, CLASSES, 0.1, iterations=1000).logits(rows).softmax(dim=1)
    monkeypatch.setattr(classifiers, "_BLOCK_NUMBERS", 64 * CLASSES)
    single = fit_logistic_regression(rows.float(), classes, CLASSES, 0.1, iterations=1000)
    np.testing.assert_allclose(single.logits(rows.float()).softmax(dim=1), exact, atol=1e-3)
    larger = fit_logistic_regression(100 * rows, classes, CLASSES, 0.1 * 100**2, iterations=1000)
    np.testing.assert_allclose(larger.logits(100 * rows).softmax(dim=1), exact, atol=1e-5)


def test_equal_features_give_the_shares_of_the_classes():
    classes = torch.tensor([0, 0, 0, 1])
    model = fit_logistic_regression(torch.ones(4, 3), classes, 2, 1.0, iterations=100)
    np.testing.assert_allclose(model.logits(torch.ones(1, 3)).softmax(dim=1), [[0.75, 0.25]], atol=1e-3)


def test_iterations_end_a_fit():
    rows, classes = clusters(100)
    assert len(fit_logistic_regression(rows, classes, CLASSES, 1e-6, iterations=3).losses) <= 6


CPU = torch.device("cpu")


def at_degrees(*angles):
    """Vectors in the plane, of different lengths: only the direction counts."""
    turns = np.radians(angles)
    return (np.stack([np.cos(turns), np.sin(turns)], axis=1) * np.arange(1, 1 + len(angles))[:, None]).astype("float32")


def test_votes_by_hand():
    train = at_degrees(0, 10, 20, 90, 180)
    classes = torch.tensor([0, 1, 1, 2, 3])
    similarity, rows = nearest_neighbours(at_degrees(1), train, 3, device=CPU)
    assert rows.tolist() == [[0, 1, 2]]
    cosines = [math.cos(math.radians(angle)) for angle in (1, 9, 19)]
    np.testing.assert_allclose(similarity, [cosines], atol=1e-6)
    first, second, third = (math.exp(cosine / 0.07) for cosine in cosines)
    found = predict_by_neighbours(similarity, classes[rows], np.array([1]), 4, field="classification.knn")
    assert (found.rank[0], found.top[0, 0]) == (1, 1)  # the nearest image is of class 0, two others outvote it
    assert found.probability[0] == pytest.approx((second + third) / (first + second + third), abs=1e-5)


def test_one_neighbour_decides_and_classes_without_votes_tie():
    classes = torch.tensor([0, 1, 1, 2, 3])
    similarity, rows = nearest_neighbours(at_degrees(1, 1), at_degrees(0, 10, 20, 90, 180), 1, device=CPU)
    found = predict_by_neighbours(similarity, classes[rows], np.array([0, 2]), 4, field="classification.knn")
    assert found.rank.tolist() == [1, 4]
    assert found.probability.tolist() == [1, 0]


def test_blocks_change_nothing():
    rng = np.random.default_rng(0)
    train, queries = (rng.standard_normal((count, 8)).astype("float32") for count in (50, 23))
    units, tested = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (train, queries))
    expected = np.argsort(-(tested @ units.T), axis=1)[:, :7]
    for block in (1000, 4, 23):
        similarity, found = nearest_neighbours(queries, train, 7, device=CPU, block=block)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_allclose(similarity, np.take_along_axis(tested @ units.T, expected, 1), atol=1e-6)
