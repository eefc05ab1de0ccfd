"""Paired comparison of two runs, metric by metric, over the units that both answered.

Paired bootstrap: the same units are drawn for both runs, for an interval of the difference. Sign-flip permutation: the
two answers to a unit are exchanged at random, for a p-value.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcl_core.evaluation.metrics.core import BootstrapMetric, Ints, Numbers, Statistic, chunked_draws
from lcl_core.evaluation.predictions import PredictionStore
from lcl_core.evaluation.results import metrics_of_file

DRAWS = 10_000
_EQUAL_WITHIN = 1e-12  # two differences this close are equal


@dataclass(frozen=True)
class MetricComparison:
    """One metric of two runs, over the units that both were asked.

    Attributes:
        difference: right minus left.
        interval: 95 % bootstrap interval of the difference.
        p: chance of a difference at least as large, either way, between runs that are equally good. Of one
            metric: where many are compared, some will be small by chance.
        count: units in common.
    """

    task: str
    split: str
    variant: str
    transfer: str
    metric: str
    left: float
    right: float
    difference: float
    interval: tuple[float, float]
    p: float
    count: int

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "interval": list(self.interval)}


def compare_runs(left: Path, right: Path, *, seed: int = 0, draws: int = DRAWS) -> list[MetricComparison]:
    """Compare the trained encoders' records in two folders, metric by metric, where both have the question.

    Args:
        draws: of the bootstrap and of the permutations; where there are fewer ways to toss, all of them are taken.

    Raises:
        UserError: ``records_unreadable``.
    """
    ours, theirs = _metrics_by_question(left), _metrics_by_question(right)
    found = []
    for key in (key for key in ours if key in theirs):
        (task, split, variant, transfer, _), metric = key
        pairs = PairedOutcomes.of(ours[key], theirs[key])
        if pairs is None:
            continue
        before, after = pairs.values()
        found.append(
            MetricComparison(
                task, split, variant, transfer, metric, before, after, after - before,
                pairs.interval(seed, draws), pairs.p_value(seed, draws), int(pairs.counts.sum()),
            )
        )  # fmt: skip
    return found


@dataclass(frozen=True)
class PairedOutcomes:
    """Units with the same two contributions are exchangeable, so each distinct pair is held once with its count.

    Attributes:
        left, right: [J] or [J, V] contributions of the two runs.
        counts: [J] units that contribute so.
        statistic: of both.
    """

    left: Numbers
    right: Numbers
    counts: Ints
    statistic: Statistic

    @classmethod
    def of(cls, left: BootstrapMetric, right: BootstrapMetric) -> PairedOutcomes | None:
        """The units that both have; None where they have none in common."""
        place = {unit: row for row, unit in enumerate(right.units)}
        shared = [(row, place[unit]) for row, unit in enumerate(left.units) if unit in place]
        if not shared:
            return None
        mine, other = np.array(shared, np.int64).T
        values = [_as_columns(np.asarray(left.values))[mine], _as_columns(np.asarray(right.values))[other]]
        both, counts = np.unique(np.concatenate(values, axis=1), axis=0, return_counts=True)
        first, second = np.split(both, 2, axis=1)
        if np.asarray(left.values).ndim == 1:
            first, second = first[:, 0], second[:, 0]
        return cls(first, second, counts, left.statistic)

    def values(self) -> tuple[float, float]:
        """The metric of both runs over the shared units."""
        counts = self.counts[None]
        return float(self._of(self.left, counts)[0]), float(self._of(self.right, counts)[0])

    def interval(self, seed: int, draws: int) -> tuple[float, float]:
        """95 % percentile bootstrap interval of right minus left."""
        rng = np.random.default_rng(seed)
        total = int(self.counts.sum())

        def drawn(size: int) -> Numbers:
            counts = rng.multinomial(total, self.counts / total, size=size)
            return self._of(self.right, counts) - self._of(self.left, counts)

        low, high = np.quantile(chunked_draws(drawn, draws, len(self.counts)), [0.025, 0.975])
        return float(low), float(high)

    def p_value(self, seed: int, draws: int) -> float:
        """Two-sided, of the sign-flip permutation: exact where all tosses are among ``draws``."""
        before, after = self.values()
        apart = self._apart()
        tosses = int(self.counts[apart].sum())
        if 2**tosses <= draws:
            found = np.abs(self._all_flips(apart, tosses))
            return float(np.mean(found >= abs(after - before) - _EQUAL_WITHIN))
        rng = np.random.default_rng(seed)
        found = np.abs(chunked_draws(lambda size: self._flipped(self._toss(rng, size)), draws, 2 * len(self.counts)))
        return float((1 + np.count_nonzero(found >= abs(after - before) - _EQUAL_WITHIN)) / (1 + draws))

    def _apart(self) -> NDArray[np.bool_]:
        """[J] where the two runs differ: only there a change of places changes anything."""
        return (_as_columns(self.left) != _as_columns(self.right)).any(axis=1)

    def _toss(self, rng: np.random.Generator, size: int) -> Ints:
        return rng.binomial(self.counts, 0.5, size=(size, len(self.counts)))

    def _flipped(self, flips: Ints) -> Numbers:
        """[D] differences after ``flips`` [D, J] units of each pair have changed places."""
        kept = self.counts - flips
        values = np.concatenate([self.left, self.right])
        mine, other = np.concatenate([kept, flips], axis=1), np.concatenate([flips, kept], axis=1)
        return self._of(values, other) - self._of(values, mine)

    def _all_flips(self, apart: NDArray[np.bool_], tosses: int) -> Numbers:
        """[2^tosses] differences, every combination of units once."""
        single = np.repeat(np.flatnonzero(apart), self.counts[apart])
        heads = (np.arange(2**tosses)[:, None] >> np.arange(tosses)) & 1
        flips = np.zeros((len(heads), len(self.counts)), np.int64)
        np.add.at(flips.T, single, heads.T)
        return self._flipped(flips)

    def _of(self, values: Numbers, counts: Ints) -> Numbers:
        """[D] statistics; of single numbers in ascending order, as statistics may ask."""
        if values.ndim > 1:
            return self.statistic(values, counts)
        order = np.argsort(values, kind="stable")
        return self.statistic(values[order], counts[:, order])


Key = tuple[tuple[str, ...], str]


def _metrics_by_question(folder: Path) -> dict[Key, BootstrapMetric]:
    return {
        (sheet.question, each.metric): each
        for sheet, samples in PredictionStore(folder).read()
        if sheet.encoder == "trained"
        for each in metrics_of_file(sheet, samples)
    }


def _as_columns(values: NDArray[Any]) -> Numbers:
    """[Q] or [Q, V] → [Q, V]."""
    return values.reshape(len(values), -1).astype(np.float64)
