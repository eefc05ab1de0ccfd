"""One metric of one sheet, in the form that bootstrap and paired tests draw from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lcl_core.transfer.metrics import Statistic, bootstrap_interval


@dataclass(frozen=True)
class Measure:
    """A metric as a statistic of units that can be drawn again.

    Attributes:
        metric: its name in the table.
        units: [Q] what is drawn: a query, a picture, a question; the same names in another run are the same units.
        values: [Q] or [Q, V] what each unit contributes.
        statistic: values [U] or [U, V] and how often each was drawn, counts [D, U], → the metric [D]. Of [U] it is
            given distinct values, ascending; of [U, V] distinct rows.
        chance: what a random answer reaches, by arithmetic; none where that says nothing.
        majority: what naming the most frequent answers reaches.
        spread: standard deviation over repetitions of the whole task, where there are any.
    """

    metric: str
    units: Sequence[str]
    values: NDArray[np.floating] | NDArray[np.integer] | NDArray[np.bool_]
    statistic: Statistic
    chance: float | None = None
    majority: float | None = None
    spread: float | None = None

    @property
    def value(self) -> float:
        """The metric of all units, each drawn once."""
        return self.of(np.asarray(self.values))

    def of(self, values: NDArray) -> float:
        """The metric of other values of the same units."""
        distinct, counts = np.unique(values, return_counts=True, axis=0)
        return float(self.statistic(distinct.astype(np.float64), counts[None])[0])

    def interval(self, seed: int) -> tuple[float, float]:
        """95 % bootstrap interval over the units."""
        return bootstrap_interval(self.values, self.statistic, seed=seed)
