"""Paired comparison of two runs, metric by metric, over the units that both answered.

Paired bootstrap: the same units are drawn for both runs, for an interval of the difference. Sign-flip permutation: the
two answers to a unit are exchanged at random, for a p-value. Units of one group, such as the images of one concept, are
drawn and exchanged together.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcl_core.evaluation.metrics import (
    BootstrapMetric,
    Ints,
    Numbers,
    Statistic,
    UnitGroups,
    chunked_draws,
    draw_counts,
    mean_of,
    percentile_interval,
)
from lcl_core.evaluation.results import PredictionFile, PredictionStore, metrics_of_file
from lcl_core.specs.study import MetricSpec

DRAWS = 10_000
_EQUAL_WITHIN = 1e-12  # two differences this close are equal


def compare_runs(left: Path, right: Path, *, seed: int = 0, draws: int = DRAWS) -> list[dict[str, Any]]:
    """Compare the trained encoders' records in two folders, metric by metric, where both have the question.

    ``difference`` is right minus left, ``interval`` its 95 % bootstrap interval, ``p`` the two-sided p-value of one
    metric, not corrected for their number, ``count`` the units that both answered. Ranks among different numbers of
    candidates are not compared. Other settings of the two runs should be equal, too.

    Args:
        draws: of the bootstrap and of the permutations.
    """
    metrics, others = _metrics_by_question(left), _metrics_by_question(right)
    comparisons = []
    for key in (key for key in metrics if key in others):
        (task, split, variant, transfer, _), _, metric = key
        pairs = PairedOutcomes.of(metrics[key], others[key])
        if pairs is None:
            continue
        before, after = pairs.values()
        comparisons.append(
            {
                "task": task,
                "split": split,
                "variant": variant,
                "transfer": transfer,
                "metric": metric,
                "left": before,
                "right": after,
                "difference": after - before,
                "interval": list(pairs.interval(seed, draws)),
                "p": pairs.p_value(seed, draws),
                "count": int(pairs.counts.sum()),
            }
        )
    return comparisons


@dataclass(frozen=True)
class PairedOutcomes:
    """Outcomes of the shared units: each distinct pair of contributions once, with its count.

    Attributes:
        left, right: [J] or [J, V] contributions of the two runs.
        counts: [J] units that contribute so.
        statistic: of both.
        groups: of the units; None: each by itself.
    """

    left: Numbers
    right: Numbers
    counts: Ints
    statistic: Statistic
    groups: UnitGroups | None = None

    @classmethod
    def of(cls, left: BootstrapMetric, right: BootstrapMetric) -> PairedOutcomes | None:
        """The units that both have; None where they have none in common."""
        row_of = {unit: row for row, unit in enumerate(right.units)}
        shared = [(row, row_of[unit]) for row, unit in enumerate(left.units) if unit in row_of]
        if not shared:
            return None
        left_rows, right_rows = np.array(shared, np.int64).T
        values = [_as_columns(np.asarray(left.values))[left_rows], _as_columns(np.asarray(right.values))[right_rows]]
        both, row, counts = np.unique(np.concatenate(values, axis=1), axis=0, return_inverse=True, return_counts=True)
        first, second = np.split(both, 2, axis=1)
        if np.asarray(left.values).ndim == 1:
            first, second = first[:, 0], second[:, 0]
        groups = None
        if left.groups:
            groups = UnitGroups.of([left.groups[each] for each in left_rows], row.reshape(-1))
        return cls(first, second, counts, left.statistic, groups)

    def values(self) -> tuple[float, float]:
        """The metric of both runs over the shared units."""
        counts = self.counts[None]
        return float(self.statistic(self.left, counts)[0]), float(self.statistic(self.right, counts)[0])

    def interval(self, seed: int, draws: int) -> tuple[float, float]:
        """95 % percentile bootstrap interval of right minus left."""
        rng = np.random.default_rng(seed)

        def draw(size: int) -> Numbers:
            counts = draw_counts(rng, size, self.counts, self.groups)
            return self.statistic(self.right, counts) - self.statistic(self.left, counts)

        return percentile_interval(chunked_draws(draw, draws, self._width))

    def p_value(self, seed: int, draws: int) -> float:
        """Two-sided, of the sign-flip permutation."""
        before, after = self.values()
        rng, values = np.random.default_rng(seed), np.concatenate([self.left, self.right])

        def flipped(size: int) -> Numbers:
            """[size] differences after the outcomes of units, or of groups, are exchanged at random."""
            if self.groups is None:
                flips = rng.binomial(self.counts, 0.5, size=(size, len(self.counts)))
            else:
                bits = rng.integers(0, 2, size=(size, self.groups.count_of_groups))
                flips = self.groups.count(bits, len(self.counts))
            kept = self.counts - flips
            left, right = np.concatenate([kept, flips], axis=1), np.concatenate([flips, kept], axis=1)
            return self.statistic(values, right) - self.statistic(values, left)

        differences = chunked_draws(flipped, draws, 2 * self._width)
        hits = np.count_nonzero(np.abs(differences) >= abs(after - before) - _EQUAL_WITHIN)
        return float((1 + hits) / (1 + draws))

    @property
    def _width(self) -> int:
        """Numbers of one draw."""
        return max(len(self.counts), 0 if self.groups is None else len(self.groups.row))


def compare_selected(
    metric: MetricSpec, left: Sequence[Path], right: Sequence[Path], *, seed: int = 0, draws: int = DRAWS
) -> dict[str, Any] | None:
    """Right minus left of the mean that a study's metric selects, over the samples that all evaluations answered.

    Outcomes of a sample are averaged over the evaluations of a side first. A sample, or a group of samples, is drawn
    and exchanged as one, however many files ask about it; the difference is that of the means of the files' means, as
    in the study's table. None without a common sample, and for a metric that is no mean.

    Args:
        left, right: folders of stored predictions, one a seed.
    """
    sides = [[_selected_outcomes(metric, records) for records in side] for side in (left, right)]
    everyone = sides[0] + sides[1]
    if not all(sides) or not (shared := [key for key in everyone[0] if all(key in other for other in everyone)]):
        return None
    files = Counter(file for file, *_ in shared)
    weights = [len(shared) / (len(files) * files[file]) for file, *_ in shared]
    before, after = (np.mean([[seed[key] for key in shared] for seed in side], axis=0) * weights for side in sides)
    groups = [group or json.dumps(sample) for _, sample, _, group in shared]
    units = [str(number) for number in range(len(shared))]
    pairs = PairedOutcomes.of(*(BootstrapMetric("", units, each, mean_of, groups=groups) for each in (before, after)))
    assert pairs is not None
    return {
        "count": len(set(groups)),
        "difference": float(np.mean(after - before)),
        "interval": pairs.interval(seed, draws),
        "p": pairs.p_value(seed, draws),
    }


# file, sample (of a split and a direction), number of candidates and group → contribution to the mean
_Outcomes = dict[tuple[tuple[str, ...], tuple[str, ...], int | None, str], float]


def _selected_outcomes(metric: MetricSpec, records: Path) -> _Outcomes:
    def is_selected(file: PredictionFile) -> bool:
        names = ("task", "split", "variant", "transfer")
        return file.encoder == "trained" and all(getattr(metric, name) in (None, getattr(file, name)) for name in names)

    outcomes: _Outcomes = {}
    for _, file, samples in PredictionStore(records).read(is_selected) if metric.of == "evaluation" else ():
        for each in metrics_of_file(file, samples, baselines=False):
            if each.metric != metric.metric or each.statistic is not mean_of:
                continue
            about = (file.split, file.part)
            for unit, group, value in zip(each.units, each.groups or [""] * len(each.units), each.values, strict=True):
                outcomes[file.question, (*about, unit), file.facts.get("candidates"), group] = float(value)
    return outcomes


def _metrics_by_question(folder: Path) -> dict[tuple[tuple[str, ...], int | None, str], BootstrapMetric]:
    """By question, number of candidates, and metric."""
    return {
        (file.question, file.facts.get("candidates"), each.metric): each
        for _, file, samples in PredictionStore(folder).read(lambda file: file.encoder == "trained")
        for each in metrics_of_file(file, samples, baselines=False)
    }


def _as_columns(values: NDArray[Any]) -> Numbers:
    """[Q] or [Q, V] → [Q, V]."""
    return values.reshape(len(values), -1).astype(np.float64)
