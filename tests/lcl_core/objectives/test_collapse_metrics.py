"""The two numbers that tell of a collapse, on latents of which they are known."""

from __future__ import annotations

import math

import pytest
import torch

from lcl_core.objectives.emu import collapse_metrics, effective_rank, log_variance


def test_the_rank_counts_directions():
    assert float(effective_rank(torch.eye(6)[:4] * 3)) == pytest.approx(4)
    # a singular value that is zero but for round-off, 1e-7 of the first, adds 1e-7 log(1e7) to the entropy
    assert float(effective_rank(torch.ones(5, 7))) == pytest.approx(1, abs=1e-5)
    # singular values 3 and 1: entropy of (3/4, 1/4)
    uneven = torch.diag(torch.tensor([3.0, 1.0]))
    assert float(effective_rank(uneven)) == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))


def test_little_differences_from_one_vector_are_a_collapse():
    spread = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    assert float(effective_rank(spread)) > 7
    assert float(effective_rank(10 + 1e-3 * spread)) < 1.1


def test_the_variance_is_over_images():
    latents = torch.tensor([[0.0, 5.0], [2.0, 5.0]])  # variances 2 and 0
    assert float(log_variance(latents)) == pytest.approx(math.log(1.0))
    assert math.isfinite(float(log_variance(torch.ones(3, 4))))


def test_one_image_alone_does_not_count():
    assert all(float(ratio.count) == 0 for ratio in collapse_metrics(torch.randn(1, 4)).values())
    assert all(float(ratio.count) == 1 for ratio in collapse_metrics(torch.randn(2, 4)).values())
