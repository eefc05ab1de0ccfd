"""A power law through points: how a figure grows with compute."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from lcl_core.studies.statistics import Interval, t_quantile


@dataclass(frozen=True)
class PowerLaw:
    """y = factor * x ** exponent, by least squares of the logarithms.

    Attributes:
        interval: 95 % of the exponent; None for fewer than three points.
        r2: share of the variance of log y that the line explains; None when y does not vary.
    """

    factor: float
    exponent: float
    interval: Interval | None
    r2: float | None
    count: int

    def __call__(self, x: float) -> float:
        return self.factor * x**self.exponent


def power_law(points: Sequence[tuple[float, float]]) -> PowerLaw | None:
    """Of (x, y); those that are not above 0 are left out. None unless two different x are left."""
    logs = [(math.log(x), math.log(y)) for x, y in points if x > 0 and y > 0]
    if len({x for x, _ in logs}) < 2:
        return None
    middle_x, middle_y = (fmean(values) for values in zip(*logs, strict=True))
    spread = sum((x - middle_x) ** 2 for x, _ in logs)
    exponent = sum((x - middle_x) * (y - middle_y) for x, y in logs) / spread
    offset = middle_y - exponent * middle_x
    missed = sum((y - offset - exponent * x) ** 2 for x, y in logs)
    whole = sum((y - middle_y) ** 2 for _, y in logs)
    return PowerLaw(
        factor=math.exp(offset),
        exponent=exponent,
        interval=_interval(exponent, missed, spread, len(logs)),
        r2=1 - missed / whole if whole > 0 else None,
        count=len(logs),
    )


def _interval(exponent: float, missed: float, spread: float, count: int) -> Interval | None:
    if count < 3:
        return None
    half = t_quantile(count - 2) * math.sqrt(missed / (count - 2) / spread)
    return exponent - half, exponent + half
