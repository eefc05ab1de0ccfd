"""What a list of ranks says: recall, median rank, accuracy; what chance says by arithmetic; how sure we are.

Pure functions of small arrays. A rank is 1-based; Q queries. Recall at k counts a query as found when one of
its right candidates is among the first k, as the retrieval literature does for several captions an image
(TR@k, IR@k); top-k accuracy is the same arithmetic on the rank of the true class.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Numbers = NDArray[np.float64]
Statistic = Callable[[Numbers, Ints], Numbers]

_DRAWN_AT_ONCE = 4_000_000


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
    return float(_found_within(candidates, right, min(k, candidates)))


def chance_median_rank(candidates: int, right: Ints) -> float:
    """Exact median rank of a random order: the median of the mixture of the queries' rank distributions.

    Where exactly half of the mixture lies at m or before, the median lies half-way between m and m + 1, as
    the median of an even-sized list does.
    """
    half = Fraction(1, 2)
    m = 1 + bisect_left(range(1, candidates + 1), half, key=lambda m: _found_within(candidates, right, m))
    return m + 0.5 if _found_within(candidates, right, m) == half else float(m)


def _found_within(candidates: int, right: Ints, m: int) -> Fraction:
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

    low, high = np.quantile(in_pieces(drawn, draws, len(distinct)), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def in_pieces(draw: Callable[[int], Numbers], draws: int, width: int) -> Numbers:
    """[draws] numbers from ``draw``, asked for as many at once as rows of ``width`` numbers fit the memory."""
    at_once = max(1, _DRAWN_AT_ONCE // width)
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
