"""Means and how sure of them we are, over seeds or over samples. Plain functions of a few numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

LEVEL = 0.95
Interval = tuple[float, float]


@dataclass(frozen=True)
class Paired:
    """Right minus left, pair by pair (Student's paired test).

    Attributes:
        interval: 95 % of the mean difference; None for fewer than two pairs.
        t, p: None for fewer than two pairs, and when all differences are the same, which no test can weigh.
        p: two-sided.
    """

    count: int
    difference: float
    interval: Interval | None
    t: float | None
    p: float | None


def mean(values: Sequence[float]) -> float | None:
    """None of no values."""
    return fmean(values) if values else None


def deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation (n - 1); None for fewer than two values."""
    return stdev(values) if len(values) > 1 else None


def t_interval(values: Sequence[float], level: float = LEVEL) -> Interval | None:
    """Student's interval of the mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    half = t_quantile(len(values) - 1, level) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def paired(left: Sequence[float], right: Sequence[float]) -> Paired:
    """Compare values of the same seeds, or of the same samples. Raises: ValueError without any pair."""
    differences = [after - before for before, after in zip(left, right, strict=True)]
    if not differences:
        raise ValueError("there is no pair to compare")
    spread = deviation(differences)
    difference, interval = fmean(differences), t_interval(differences)
    if spread is None or spread <= 1e-12 * max(map(abs, differences)):
        return Paired(len(differences), difference, interval, None, None)
    t = difference * math.sqrt(len(differences)) / spread
    return Paired(len(differences), difference, interval, t, two_sided(t, len(differences) - 1))


def holm(values: Sequence[float | None]) -> list[float | None]:
    """p-values adjusted for being several (Holm's step-down method); those that are None stay so."""
    ranked = sorted((p, place) for place, p in enumerate(values) if p is not None)
    adjusted: list[float | None] = [None] * len(values)
    highest = 0.0
    for rank, (p, place) in enumerate(ranked):
        highest = max(highest, min(1.0, p * (len(ranked) - rank)))
        adjusted[place] = highest
    return adjusted


def t_quantile(freedom: int, level: float = LEVEL) -> float:
    """Half-width of a two-sided interval, in standard errors."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + level) / 2))


def two_sided(t: float, freedom: int) -> float:
    """Chance of a statistic at least as far from zero when nothing differs."""
    from scipy.special import stdtr

    return float(2 * stdtr(freedom, -abs(t)))
