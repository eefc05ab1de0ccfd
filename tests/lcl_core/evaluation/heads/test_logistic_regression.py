"""Logistic regression: the minimum of its loss, as scikit-learn's, whatever the scale of the features."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lcl_core.evaluation.heads import logistic_regression
from lcl_core.evaluation.heads.logistic_regression import fit_logistic_regression, linear_head_cost
from lcl_core.specs.evaluate import LinearHeadSpec

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
    monkeypatch.setattr(logistic_regression, "_BLOCK_NUMBERS", 64 * CLASSES)
    seen: list[int] = []
    single = fit_logistic_regression(rows.float(), classes, CLASSES, 0.1, iterations=1000, on_rows=seen.append)
    np.testing.assert_allclose(single.logits(rows.float()).softmax(dim=1), exact, atol=1e-3)
    assert seen[:5] == [64, 64, 64, 64, 44]
    assert sum(seen) == 300 * len(single.losses)
    larger = fit_logistic_regression(100 * rows, classes, CLASSES, 0.1 * 100**2, iterations=1000)
    np.testing.assert_allclose(larger.logits(100 * rows).softmax(dim=1), exact, atol=1e-5)


def test_equal_features_give_the_shares_of_the_classes():
    classes = torch.tensor([0, 0, 0, 1])
    model = fit_logistic_regression(torch.ones(4, 3), classes, 2, 1.0, iterations=100)
    np.testing.assert_allclose(model.logits(torch.ones(1, 3)).softmax(dim=1), [[0.75, 0.25]], atol=1e-3)


def test_iterations_end_a_fit():
    rows, classes = clusters(100)
    assert len(fit_logistic_regression(rows, classes, CLASSES, 1e-6, iterations=3).losses) <= 6
    assert linear_head_cost(LinearHeadSpec(), 100) == 14 * linear_head_cost(LinearHeadSpec(l2=(1.0,)), 100)
