"""A histogram of fixed bins, so that those of several processes add up."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

from pydantic import BaseModel, Field


class Histogram(BaseModel):
    """How often values fell into each bin, and their exact number, sum and extremes.

    Attributes:
        edges: n + 1 rising edges; bin i holds edges[i] <= value < edges[i + 1], the last one its upper edge too.
        counts: of the n bins. A value outside the edges counts in the nearest bin.
        unit: what a value is.
    """

    edges: list[float]
    counts: list[int]
    unit: str = ""
    count: int = 0
    total: float = 0.0
    least: float | None = Field(None, description="smallest value seen")
    most: float | None = Field(None, description="largest value seen")

    @classmethod
    def of(cls, edges: Sequence[float], unit: str) -> Histogram:
        """An empty one."""
        return cls(edges=list(edges), counts=[0] * (len(edges) - 1), unit=unit)

    def add(self, value: float) -> None:
        if not math.isfinite(value):
            return
        place = bisect_right(self.edges, value) - 1
        self.counts[min(max(place, 0), len(self.counts) - 1)] += 1
        self.count += 1
        self.total += value
        self.least = value if self.least is None else min(self.least, value)
        self.most = value if self.most is None else max(self.most, value)

    def merge(self, other: Histogram) -> None:
        """Add the values of one with the same edges."""
        if not other.count:
            return
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.count += other.count
        self.total += other.total
        both = [value for value in (self.least, other.least) if value is not None]
        self.least = min(both)
        self.most = max(value for value in (self.most, other.most) if value is not None)

    @property
    def mean(self) -> float | None:
        return self.total / self.count if self.count else None


def doubling(last: int) -> list[float]:
    """Edges 0, 1, 2, 4, 8 … up to 2**last."""
    return [0.0, *(float(2**power) for power in range(last + 1))]
