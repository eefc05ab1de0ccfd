"""Statistics of a study: means and intervals, paired tests with Holm's correction, the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

LEVEL = 0.95
Interval = tuple[float, float]


@dataclass(frozen=True)
class PairedTest:
    """Right minus left, pair by pair (Student's paired test).

    Attributes:
        interval: 95 % of the mean difference; None for fewer than two pairs.
        t, p: None for fewer than two pairs, and when all differences are the same.
        p: two-sided.
    """

    count: int
    difference: float
    interval: Interval | None
    t: float | None
    p: float | None


def mean(values: Sequence[float]) -> float | None:
    """None without values."""
    return fmean(values) if values else None


def sample_deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation (n - 1); None for fewer than two values."""
    return stdev(values) if len(values) > 1 else None


def t_interval(values: Sequence[float]) -> Interval | None:
    """Student's 95 % interval of the mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    from scipy.special import stdtrit  # here: slow to import

    half = float(stdtrit(len(values) - 1, (1 + LEVEL) / 2)) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def paired_test(left: Sequence[float], right: Sequence[float]) -> PairedTest:
    """Compare values of the same seeds, or of the same samples."""
    differences = [after - before for before, after in zip(left, right, strict=True)]
    if not differences:
        raise ValueError("there is no pair to compare")
    spread = sample_deviation(differences)
    difference, interval = fmean(differences), t_interval(differences)
    if spread is None or spread <= 1e-12 * max(map(abs, differences)):
        return PairedTest(len(differences), difference, interval, None, None)
    t = difference * math.sqrt(len(differences)) / spread
    return PairedTest(len(differences), difference, interval, t, 2 * _upper_tail(abs(t), len(differences) - 1))


def equivalence_p(left: Sequence[float], right: Sequence[float], margin: float) -> float | None:
    """p of a mean difference of ``margin`` or more, in either direction (Schuirmann 1987: two one-sided tests).

    A small p says that the two are equivalent within the margin. None where ``paired_test`` has no t.
    """
    differences = [after - before for before, after in zip(left, right, strict=True)]
    if paired_test(left, right).t is None:
        return None
    error = stdev(differences) / math.sqrt(len(differences))
    return _upper_tail((margin - abs(fmean(differences))) / error, len(differences) - 1)


def _upper_tail(t: float, freedom: int) -> float:
    """Probability of Student's t or more."""
    from scipy.special import stdtr

    return float(stdtr(freedom, -t))


def holm_adjust(values: Sequence[float | None], tests: int | None = None) -> list[float | None]:
    """p-values adjusted by Holm's step-down method; None stays None.

    Args:
        tests: number of tests that were planned, those without a p-value included; None: those with one.
    """
    ranked = sorted((p, index) for index, p in enumerate(values) if p is not None)
    planned = len(ranked) if tests is None else tests
    if planned < len(ranked):
        raise ValueError(f"{len(ranked)} p-values are more than the {planned} tests that were planned")
    adjusted: list[float | None] = [None] * len(values)
    highest = 0.0
    for rank, (p, index) in enumerate(ranked):
        highest = max(highest, min(1.0, p * (planned - rank)))
        adjusted[index] = highest
    return adjusted


def pareto_front(points: Sequence[tuple[float, float]], better: Literal["higher", "lower"] = "higher") -> list[int]:
    """Indices of the Pareto-optimal (cost, quality), cheapest first."""
    sign = 1.0 if better == "higher" else -1.0
    front: list[int] = []
    best = float("-inf")
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -sign * points[i][1])):
        quality = sign * points[index][1]
        if quality > best:
            front.append(index)
            best = quality
    return front
