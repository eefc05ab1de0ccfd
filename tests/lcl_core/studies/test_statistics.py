"""Statistics against numbers worked by hand, closed forms and scipy's own tests."""

import math
import random

import pytest
from scipy import stats

from lcl_core.studies.table import (
    holm_adjust,
    paired_test,
    pareto_front,
    t_interval,
)


def test_students_interval():
    """n = 3, mean 2, sd 1: half-width t(2, .975) / sqrt 3; that quantile is .95 sqrt(2 / (1 - .95 ** 2))."""
    quantile = 0.95 * math.sqrt(2 / (1 - 0.95**2))
    assert quantile == pytest.approx(4.30265, abs=1e-5)
    assert t_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - quantile / math.sqrt(3), 2 + quantile / math.sqrt(3)))
    assert t_interval([0.0, 1.0]) == pytest.approx((0.5 - 12.7062 / 2, 0.5 + 12.7062 / 2), abs=1e-4)
    assert (t_interval([5.0]), t_interval([])) == (None, None)


def test_a_paired_test_agrees_with_scipys():
    rng = random.Random(1)
    left = [rng.random() for _ in range(7)]
    right = [value + rng.gauss(0.1, 0.2) for value in left]
    theirs = stats.ttest_rel(right, left)
    ours = paired_test(left, right)
    assert (ours["t"], ours["p"]) == (pytest.approx(theirs.statistic), pytest.approx(theirs.pvalue))


def test_pairing_sees_what_a_common_seed_hides():
    """Seeds differ by far more than the two rows do, and the same way in both."""
    left = [0.10, 0.50, 0.90]
    found = paired_test(left, [value + step for value, step in zip(left, (0.02, 0.021, 0.019), strict=True)])
    assert found["p"] is not None
    assert found["p"] < 0.001


@pytest.mark.parametrize(
    ("left", "right"), [([1.0], [2.0]), ([0.1, 0.2, 0.3], [0.1, 0.2, 0.3]), ([0.1, 0.2], [0.3, 0.4])]
)
def test_no_verdict_without_spread(left, right):
    found = paired_test(left, right)
    assert found["difference"] == pytest.approx(right[0] - left[0])
    assert (found["t"], found["p"]) == (None, None)


def test_holms_adjustment_by_hand():
    """Ranked .01, .03, .04: x 3, x 2, x 1, and never below the one before."""
    assert holm_adjust([0.04, None, 0.01, 0.03]) == [
        pytest.approx(0.06),
        None,
        pytest.approx(0.03),
        pytest.approx(0.06),
    ]
    assert holm_adjust([0.5, 0.9]) == [1.0, 1.0]
    assert holm_adjust([]) == []


def test_the_front_by_hand():
    points = [(3.0, 0.5), (1.0, 0.2), (2.0, 0.6), (2.0, 0.1), (5.0, 0.9), (4.0, 0.6)]
    assert pareto_front(points) == [1, 2, 4]
    assert pareto_front(points, "lower") == [1, 3]
    assert pareto_front([]) == []
