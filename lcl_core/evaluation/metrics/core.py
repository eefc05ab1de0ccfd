"""Rank metrics with chance levels, and bootstrap intervals.

Pure functions of small arrays. A rank is 1-based; Q queries. Recall at k counts a query as a hit when one of its
correct candidates is among the first k (TR@k, IR@k); top-k accuracy is the same on the rank of the true class.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcl_core.evaluation.predictions import IMAGE_TO_CLASS, IMAGE_TO_TEXT, TEXT_TO_IMAGE, PredictionFile

Ints = NDArray[np.int64]
Numbers = NDArray[np.float64]
Statistic = Callable[[Numbers, Ints], Numbers]

_MAX_DRAWN_NUMBERS = 4_000_000


def recall_at(rank: Ints, k: int) -> float:
    """Share of queries whose rank is k or better."""
    return float(np.mean(rank <= k))


def median_rank(rank: Ints) -> float:
    return float(np.median(rank))


def class_ranks(logits: NDArray[np.floating], target: Ints) -> Ints:
    """[Q] rank of the true class, from ``logits`` [Q, C]; a class that ties with it counts as ahead."""
    own = np.take_along_axis(logits, target[:, None], axis=1)
    return np.count_nonzero(logits >= own, axis=1).astype(np.int64)


def chance_recall(candidates: int, right: Ints, k: int) -> float:
    """Exact expected recall at k of a random order.

    Args:
        candidates: n, the answers to choose from.
        right: [Q] how many of them are right for each query.
    """
    return float(_hit_probability(candidates, right, min(k, candidates)))


def chance_median_rank(candidates: int, right: Ints) -> float:
    """Exact median rank of a random order: the median of the mixture of the queries' rank distributions.

    Where exactly half of the mixture lies at m or before, the median lies half-way between m and m + 1, as
    the median of an even-sized list does.
    """
    half = Fraction(1, 2)
    m = 1 + bisect_left(range(1, candidates + 1), half, key=lambda m: _hit_probability(candidates, right, m))
    return m + 0.5 if _hit_probability(candidates, right, m) == half else float(m)


def _hit_probability(candidates: int, right: Ints, m: int) -> Fraction:
    """Mean over the queries of P(rank <= m) = 1 - C(n - m, r) / C(n, r): not all r lie behind the first m."""
    total = Fraction(0)
    for r, times in zip(*np.unique(right, return_counts=True), strict=True):
        missed = Fraction(math.comb(candidates - m, int(r)), math.comb(candidates, int(r)))
        total += (1 - missed) * int(times)
    return total / len(right)


def majority_accuracy(train_counts: Ints, target: Ints, k: int) -> float:
    """Accuracy at k of always naming the k classes most frequent in training, without looking at a picture.

    Args:
        train_counts: [C] training examples of each class; equally frequent classes in class order.
        target: [Q] true classes.
    """
    named = np.argsort(-train_counts, kind="stable")[:k]
    return float(np.mean(np.isin(target, named)))


def bootstrap_interval(
    values: NDArray[np.number] | NDArray[np.bool_],
    statistic: Statistic,
    *,
    seed: int,
    draws: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval over the queries.

    Drawing Q values with replacement gives a multinomial count of each distinct value, so that is what is
    drawn: the same distribution, at the price of the distinct values instead of the queries.

    Args:
        values: [Q] one number a query, or [Q, V] several.
        statistic: maps values [U] (distinct, ascending) or [U, V] and counts [D, U] to [D] statistics, such as
            ``mean_of`` or ``median_of``.
    """
    distinct, counts = np.unique(values, return_counts=True, axis=0)
    rng = np.random.default_rng(seed)

    def drawn(size: int) -> Numbers:
        return statistic(distinct.astype(np.float64), rng.multinomial(len(values), counts / len(values), size=size))

    low, high = np.quantile(chunked_draws(drawn, draws, len(distinct)), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def chunked_draws(draw: Callable[[int], Numbers], draws: int, width: int) -> Numbers:
    """[draws] numbers from ``draw``, asked for as many at once as rows of ``width`` numbers fit the memory."""
    at_once = max(1, _MAX_DRAWN_NUMBERS // width)
    return np.concatenate([draw(min(at_once, draws - start)) for start in range(0, draws, at_once)])


def mean_of(distinct: Numbers, counts: Ints) -> Numbers:
    """[D] means of D samples that hold ``counts`` [D, U] of the ``distinct`` [U] values."""
    return counts @ distinct / counts.sum(axis=1)


def median_of(distinct: Numbers, counts: Ints) -> Numbers:
    """[D] medians of D samples that hold ``counts`` [D, U] of the ``distinct`` [U] values."""
    upto = np.cumsum(counts, axis=1)
    size = int(upto[0, -1])
    low = (upto > (size - 1) // 2).argmax(axis=1)
    high = (upto > size // 2).argmax(axis=1)
    return (distinct[low] + distinct[high]) / 2


@dataclass(frozen=True)
class BootstrapMetric:
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


Samples = Sequence[dict[str, Any]]

RECALLS = (1, 5, 10)
ACCURACIES = (1, 5)
_METRIC_PREFIX = {IMAGE_TO_TEXT: "TR", TEXT_TO_IMAGE: "IR"}


def rank_metrics(sheet: PredictionFile, samples: Samples) -> list[BootstrapMetric]:
    """The measures of one sheet; its facts hold ``candidates`` and, for classes, ``train_counts``."""
    return (_accuracies if sheet.part == IMAGE_TO_CLASS else _recalls)(sheet, samples)


def _recalls(sheet: PredictionFile, samples: Samples) -> list[BootstrapMetric]:
    rank, right = _column(samples, "rank"), _column(samples, "right")
    name, candidates = _METRIC_PREFIX[sheet.part], sheet.facts["candidates"]
    units = [sample["query"] for sample in samples]
    chance = chance_median_rank(candidates, right)
    found = [
        BootstrapMetric(f"{name}@{k}", units, rank <= k, mean_of, chance_recall(candidates, right, k)) for k in RECALLS
    ]
    return [*found, BootstrapMetric(f"{name} median rank", units, rank, median_of, chance)]


def _accuracies(sheet: PredictionFile, samples: Samples) -> list[BootstrapMetric]:
    rank, right = _column(samples, "rank"), _column(samples, "right")
    units = [sample["query"] for sample in samples]
    candidates = sheet.facts["candidates"]
    found = [
        BootstrapMetric(
            f"acc@{k}", units, rank <= k, mean_of, chance_recall(candidates, right, k),
            _majority_accuracy(sheet, samples, k),
        )
        for k in ACCURACIES
    ]  # fmt: skip
    by_class = np.stack([[_class_hash(sample["label"]) for sample in samples], rank == 1], axis=1)
    return [*found, BootstrapMetric("acc@1 class mean", units, by_class, class_mean, 1 / candidates)]


def _class_hash(label: str) -> float:
    """The same in every run: 48 bits of a hash, which a float holds exactly."""
    return float(int.from_bytes(hashlib.blake2b(label.encode(), digest_size=6).digest()))


def class_mean(rows: Numbers, counts: Ints) -> Numbers:
    """The mean over classes of the mean within each: rows (class, value); a class that is not drawn does not count."""
    _, place = np.unique(rows[:, 0], return_inverse=True)
    member = np.eye(int(place.max()) + 1)[place]
    drawn, found = counts @ member, counts @ (member * rows[:, 1:])
    there = drawn > 0
    return np.where(there, found / np.maximum(drawn, 1), 0.0).sum(axis=1) / there.sum(axis=1)


def _majority_accuracy(sheet: PredictionFile, samples: Samples, k: int) -> float | None:
    """None where nothing was learnt that has frequencies."""
    counts = sheet.facts.get("train_counts")
    if not counts:
        return None
    number = {name: place for place, name in enumerate(counts)}
    target = np.array([number[sample["label"]] for sample in samples], np.int64)
    return majority_accuracy(np.array(list(counts.values()), np.int64), target, k)


def _column(samples: Samples, name: str) -> Ints:
    return np.array([sample[name] for sample in samples], np.int64)


def few_shot_metrics(sheet: PredictionFile, samples: list[dict[str, Any]]) -> list[BootstrapMetric]:
    """Accuracies; the unit is a picture with its mean over the draws, so intervals are those of the pictures alone."""
    ranks = np.array([sample["ranks"] for sample in samples], np.int64)  # [Q, draws]
    units = [sample["query"] for sample in samples]
    found = []
    for k in ACCURACIES:
        right = ranks <= k
        chance = min(k / sheet.facts["candidates"], 1.0)
        spread = float(right.mean(axis=0).std(ddof=1))
        found.append(BootstrapMetric(f"acc@{k}", units, right.mean(axis=1), mean_of, chance, spread=spread))
    return found
