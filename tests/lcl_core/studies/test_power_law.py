"""Power laws that are known beforehand, and the front of what is worth its cost."""

from __future__ import annotations

import math
import random

import pytest
from scipy import stats

from lcl_core.studies.statistics import power_law


def test_an_exact_law_is_found() -> None:
    law = power_law([(x, 3 * x**-0.25) for x in (1.0, 10.0, 50.0, 400.0)])
    assert law is not None
    assert (law.factor, law.exponent, law.r2) == (pytest.approx(3), pytest.approx(-0.25), pytest.approx(1))
    assert law.interval == pytest.approx((-0.25, -0.25))
    assert law(16.0) == pytest.approx(1.5)


def test_three_points_by_hand() -> None:
    """Base-2 logarithms (0, 0), (1, 2), (2, 2): slope 1, offset 1/3, r2 = 1 - (2/3) / (8/3)."""
    law = power_law([(1, 1), (2, 4), (4, 4)])
    assert law is not None
    assert (law.exponent, law.factor, law.r2) == (pytest.approx(1), pytest.approx(2 ** (1 / 3)), pytest.approx(0.75))
    half = 12.7062 * math.sqrt(2 / 3 / 2)
    assert law.interval == pytest.approx((1 - half, 1 + half), abs=1e-4)


def test_noise_is_judged_as_scipy_judges_it() -> None:
    rng = random.Random(3)
    points = [(x, 0.1 * x**0.3 * math.exp(rng.gauss(0, 0.1))) for x in (10.0, 20.0, 50.0, 100.0, 300.0, 900.0)]
    law = power_law(points)
    theirs = stats.linregress([math.log(x) for x, _ in points], [math.log(y) for _, y in points])
    assert law is not None
    assert law.exponent == pytest.approx(theirs.slope)
    assert law.r2 == pytest.approx(theirs.rvalue**2)
    half = stats.t.ppf(0.975, 4) * theirs.stderr
    assert law.interval == pytest.approx((theirs.slope - half, theirs.slope + half))


def test_what_no_law_goes_through() -> None:
    assert power_law([]) is None
    assert power_law([(5, 1), (5, 2)]) is None
    assert power_law([(5, 1), (10, 0), (20, -1)]) is None
    two = power_law([(1, 1), (2, 2), (4, 0)])
    assert two is not None
    assert (two.count, two.interval) == (2, None)
    flat = power_law([(1, 3), (2, 3), (4, 3)])
    assert flat is not None
    assert (flat.exponent, flat.r2) == (pytest.approx(0), None)
