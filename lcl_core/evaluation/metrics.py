"""Ranks, rank metrics with their chance levels, and bootstrap intervals.

A rank is 1-based; Q queries. Recall at k counts a query as a hit when one of its correct candidates is among the first
k (TR@k, IR@k); top-k accuracy is the same arithmetic on the rank of the true class.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.floating]
Numbers = NDArray[np.float64]
Statistic = Callable[[Numbers, Ints], Numbers]

MAX_DRAWN_NUMBERS = 4_000_000  # held at a time
# Two scores this close are a tie: more than a dot product of unit vectors loses to rounding, far less than a
# difference that means anything. Without it, equal images would be ordered by the shape of the block.
TIE_TOLERANCE = {np.dtype(np.float32): 1e-6, np.dtype(np.float64): 1e-12}
_BLOCK_SCORES = 2**24  # similarities held at a time
_PAIR_BATCH = 16_384


# ---- ranks of images for texts and of texts for images


@dataclass(frozen=True)
class RetrievalRanks:
    """Rank of each query's best correct candidate.

    Attributes:
        query: [Q] row of the query; rows without a correct candidate are left out.
        rank: [Q] 1 + the number of wrong candidates that score as high or higher (a tie counts against the query).
        right: [Q] number of correct candidates.
        top: [Q, k] rows of the best candidates, best first; k is at most their number.
        candidates: size of the gallery.
    """

    query: Ints
    rank: Ints
    right: Ints
    top: Ints
    candidates: int


def rank_bidirectional(
    images: Floats,
    texts: Floats,
    pairs: Ints,
    *,
    top: int = 5,
    block: int | None = None,
    on_block: Callable[[], None] = lambda: None,
) -> tuple[RetrievalRanks, RetrievalRanks]:
    """Ranks of texts for every image, and of images for every text, by dot product, without the whole matrix.

    Args:
        images: [N, E] features, L2-normalised; may be memory-mapped.
        texts: [M, E] features of the same dtype (float32 or float64).
        pairs: [P, 2] correct (image row, text row) pairs, each once. Several texts an image and several images a text
            are both allowed: the best correct candidate counts.
        top: best candidates to keep for each query.
        block: texts compared at a time; None: as many as fit the memory. The ranks do not depend on it.
    """
    pairs = pairs[np.argsort(pairs[:, 1], kind="stable")]
    columns = torch.from_numpy(np.array(images)).T
    image_threshold, text_threshold = _rank_thresholds(images, texts, pairs)
    better_of_image = torch.zeros(len(images), dtype=torch.int64)
    best_of_image = torch.empty(len(images), 0, dtype=columns.dtype)
    top_of_image = torch.empty(len(images), 0, dtype=torch.int64)
    better_of_text: list[torch.Tensor] = []
    top_of_text: list[torch.Tensor] = []
    size = block or max(1, _BLOCK_SCORES // len(images))
    for start in range(0, len(texts), size):
        scores = torch.from_numpy(np.array(texts[start : start + size])) @ columns  # [B, N]
        rows = slice(start, start + len(scores))
        top_of_text.append(scores.topk(min(top, len(images)), dim=1).indices)
        numbers = torch.arange(start, start + len(scores)).expand(len(images), -1)
        best, index = torch.cat([best_of_image, scores.T], dim=1), torch.cat([top_of_image, numbers], dim=1)
        kept = best.topk(min(top, best.shape[1]), dim=1).indices
        best_of_image, top_of_image = best.gather(1, kept), index.gather(1, kept)
        own = pairs[slice(*np.searchsorted(pairs[:, 1], (rows.start, rows.stop)))]
        scores[own[:, 1] - start, own[:, 0]] = -torch.inf  # correct candidates never count as better
        better_of_text.append((scores >= text_threshold[rows, None]).sum(dim=1))
        better_of_image += (scores >= image_threshold).sum(dim=0)
        on_block()
    return (
        _retrieval_ranks(better_of_image, pairs[:, 0], top_of_image, len(texts)),
        _retrieval_ranks(torch.cat(better_of_text), pairs[:, 1], torch.cat(top_of_text), len(images)),
    )


def _rank_thresholds(images: Floats, texts: Floats, pairs: Ints) -> tuple[torch.Tensor, torch.Tensor]:
    """[N] and [M] the lowest score that counts as better than the best correct one; infinite where there is none."""
    best_of_image, best_of_text = (np.full(len(rows), -np.inf, images.dtype) for rows in (images, texts))
    for start in range(0, len(pairs), _PAIR_BATCH):
        image, text = pairs[start : start + _PAIR_BATCH].T
        score = np.einsum("pe,pe->p", images[image], texts[text])
        np.maximum.at(best_of_image, image, score)
        np.maximum.at(best_of_text, text, score)
    for best in (best_of_image, best_of_text):
        best -= np.array(TIE_TOLERANCE[images.dtype], images.dtype)
        best[np.isneginf(best)] = np.inf
    return torch.from_numpy(best_of_image), torch.from_numpy(best_of_text)


def _retrieval_ranks(better: torch.Tensor, own: Ints, top: torch.Tensor, candidates: int) -> RetrievalRanks:
    right = np.bincount(own, minlength=len(better)).astype(np.int64)
    query = np.flatnonzero(right)
    return RetrievalRanks(query, better.numpy()[query] + 1, right[query], top.numpy()[query], candidates)


# ---- metrics of ranks, and their chance


def class_ranks(logits: NDArray[np.floating], target: Ints) -> Ints:
    """[Q] rank of the true class from ``logits`` [Q, C]; a tie counts against the true class."""
    own = np.take_along_axis(logits, target[:, None], axis=1)
    return np.count_nonzero(logits >= own, axis=1).astype(np.int64)


def chance_recall(candidates: int, correct: Ints, k: int) -> float:
    """Exact expected recall at k of a random order.

    Args:
        candidates: n, the size of the gallery.
        correct: [Q] number of correct candidates of each query.
    """
    return float(_hit_probability(candidates, correct, min(k, candidates)))


def chance_median_rank(candidates: int, correct: Ints) -> float:
    """Exact median rank of a random order: the median of the mixture of the queries' rank distributions.

    Where exactly half of the mixture lies at m or before, the median is m + 0.5, as of an even-sized list.
    """
    half = Fraction(1, 2)
    m = 1 + bisect_left(range(1, candidates + 1), half, key=lambda m: _hit_probability(candidates, correct, m))
    return m + 0.5 if _hit_probability(candidates, correct, m) == half else float(m)


def _hit_probability(candidates: int, correct: Ints, m: int) -> Fraction:
    """Mean over the queries of P(rank <= m) = 1 - C(n - m, r) / C(n, r): not all r lie behind the first m."""
    total = Fraction(0)
    for r, times in zip(*np.unique(correct, return_counts=True), strict=True):
        miss = Fraction(math.comb(candidates - m, int(r)), math.comb(candidates, int(r)))
        total += (1 - miss) * int(times)
    return total / len(correct)


def majority_accuracy(train_counts: Ints, target: Ints, k: int) -> float:
    """Accuracy at k of always predicting the k most frequent training classes.

    Args:
        train_counts: [C] training examples of each class; ties in class order.
        target: [Q] true classes.
    """
    predicted = np.argsort(-train_counts, kind="stable")[:k]
    return float(np.mean(np.isin(target, predicted)))


# ---- bootstrap


@dataclass(frozen=True)
class BootstrapMetric:
    """A metric as a statistic of units that a bootstrap draws with replacement.

    Attributes:
        metric: name in the table.
        units: [Q] names of queries, images or questions; equal names in another run are the same units.
        values: [Q] or [Q, V] contribution of each unit.
        statistic: values [U] or [U, V] and draw counts [D, U] → metric [D]; ``mean_of``, ``median_of``, …
        chance: exact value of a random prediction; None where there is none.
        majority: value of predicting the most frequent training answers.
        groups: [Q] group of each unit, such as its concept; a bootstrap draws whole groups. Empty: the unit is one by
            itself; None: each is.
    """

    metric: str
    units: Sequence[str]
    values: NDArray[np.floating] | NDArray[np.integer] | NDArray[np.bool_]
    statistic: Statistic
    chance: float | None = None
    majority: float | None = None
    groups: Sequence[str] | None = None

    @property
    def value(self) -> float:
        """The metric of all units, each drawn once."""
        distinct, counts = np.unique(self.values, return_counts=True, axis=0)
        return float(self.statistic(distinct.astype(np.float64), counts[None])[0])

    def interval(self, seed: int) -> tuple[float, float]:
        """95 % bootstrap interval over the units, or over their groups."""
        return bootstrap_interval(self.values, self.statistic, groups=self.groups, seed=seed)


def bootstrap_interval(
    values: NDArray[np.number] | NDArray[np.bool_],
    statistic: Statistic,
    *,
    seed: int,
    groups: Sequence[str] | None = None,
    draws: int = 1000,
) -> tuple[float, float]:
    """95 % percentile bootstrap interval over the units, or over groups of them.

    Drawing Q values with replacement gives a multinomial count of each distinct value, so the counts are drawn: the
    same distribution at the cost of the distinct values. Groups are drawn whole (cluster bootstrap: Davison and Hinkley
    1997, section 3.8), since values within a group may depend on each other.

    Args:
        values: [Q], or [Q, V].
        statistic: as in :class:`BootstrapMetric`.
        groups: as there.
    """
    distinct, row, counts = np.unique(values, return_inverse=True, return_counts=True, axis=0)
    rng = np.random.default_rng(seed)
    found = None if groups is None else UnitGroups.of(groups, row.reshape(-1))

    def draw(size: int) -> Numbers:
        return statistic(distinct.astype(np.float64), draw_counts(rng, size, counts, found))

    width = max(len(distinct), 0 if found is None else found.count_of_groups)
    return percentile_interval(chunked_draws(draw, draws, width))


@dataclass(frozen=True)
class UnitGroups:
    """Groups of units that are drawn, or exchanged between two runs, together.

    Attributes:
        group: [Q] number of each unit's group.
        row: [Q] number of each unit's distinct value.
        count_of_groups: G.
    """

    group: Ints
    row: Ints
    count_of_groups: int

    @classmethod
    def of(cls, groups: Sequence[str], row: NDArray[np.integer]) -> UnitGroups:
        """``groups``: as in :class:`BootstrapMetric`. ``row``: [Q] number of each unit's distinct value."""
        keys = [name or position for position, name in enumerate(groups)]
        number = {key: at for at, key in enumerate(dict.fromkeys(keys))}
        group: Ints = np.array([number[key] for key in keys], np.int64)
        return cls(group, row.astype(np.int64), len(number))

    def draw(self, rng: np.random.Generator, size: int) -> Ints:
        """[size, G] how often each group is drawn when G are drawn with replacement."""
        share = np.full(self.count_of_groups, 1 / self.count_of_groups)
        return rng.multinomial(self.count_of_groups, share, size=size)

    def count(self, times: Ints, width: int) -> Ints:
        """[D, width] units with each distinct value, from ``times`` [D, G] that each group counts."""
        rows = [np.bincount(self.row, weights=each[self.group], minlength=width) for each in times]
        return np.asarray(rows).astype(np.int64)


def draw_counts(rng: np.random.Generator, size: int, counts: Ints, groups: UnitGroups | None) -> Ints:
    """[size, U] units with each distinct value, when all units, or all groups, are drawn with replacement.

    Args:
        counts: [U] units with each value.
    """
    if groups is None:
        total = int(counts.sum())
        return rng.multinomial(total, counts / total, size=size)
    return groups.count(groups.draw(rng, size), len(counts))


def chunked_draws(draw: Callable[[int], Numbers], draws: int, width: int) -> Numbers:
    """[draws] numbers from ``draw(size)``, called for as many rows of ``width`` numbers as fit the memory."""
    chunk = max(1, MAX_DRAWN_NUMBERS // width)
    return np.concatenate([draw(min(chunk, draws - start)) for start in range(0, draws, chunk)])


def percentile_interval(drawn: Numbers) -> tuple[float, float]:
    """The middle 95 %."""
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def mean_of(distinct: Numbers, counts: Ints) -> Numbers:
    """[D] means of D samples that hold ``counts`` [D, U] of the ``distinct`` [U] values."""
    return counts @ distinct / counts.sum(axis=1)


def median_of(distinct: Numbers, counts: Ints) -> Numbers:
    """[D] medians of D samples that hold ``counts`` [D, U] of the ``distinct`` [U] values."""
    order = np.argsort(distinct, kind="stable")
    distinct, upto = distinct[order], np.cumsum(counts[:, order], axis=1)
    size = int(upto[0, -1])
    low = (upto > (size - 1) // 2).argmax(axis=1)
    high = (upto > size // 2).argmax(axis=1)
    return (distinct[low] + distinct[high]) / 2


def class_mean(rows: Numbers, counts: Ints) -> Numbers:
    """[D] means over classes of the mean within each class, from rows [U, 2] of (class, value).

    A class without a draw is left out.
    """
    order = np.argsort(rows[:, 0], kind="stable")
    values, counts = rows[order, 1], counts[:, order]
    _, first = np.unique(rows[order, 0], return_index=True)  # the row at which each class begins
    drawn, total = np.add.reduceat(counts, first, axis=1), np.add.reduceat(counts * values, first, axis=1)
    present = drawn > 0
    return np.where(present, total / np.maximum(drawn, 1), 0.0).sum(axis=1) / present.sum(axis=1)
