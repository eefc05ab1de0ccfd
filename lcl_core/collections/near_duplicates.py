"""Near-duplicate groups: connected components of rows with cosines from a threshold on. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from threadpoolctl import threadpool_limits

from lcl_core.common.errors import UserError

BLOCK_ROWS = 1024  # a block's cosines with another's are 4 MB
SKETCH = 128  # numbers of each vector that are compared with all others, before the whole ones are
NEIGHBOURS = 32  # compared of each row where there is a graph
_ROUNDING, _SCREENED = 1e-6, 1e-5  # what float32 may be off in a cosine, and in what is compared before that
_SAMPLED = 8192  # rows that the sketch's axes are taken from
_NUMBERS = 2**20  # of the vectors that are compared pair by pair at one time: they stay in the cache
_SINGLY = 256  # times as long does a pair take that is compared by itself as one in a product of two blocks

Pairs = tuple[np.ndarray, np.ndarray]
Neighbours = Callable[[np.ndarray, int], np.ndarray]  # f32 [b, E], k -> rows int64 [b, k], -1 where there are fewer


class RowVectors(Protocol):
    """An array [n, E], f32 or f16, in memory or not, of which blocks and single rows are read."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, chosen: slice | np.ndarray, /) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class RowGraph:
    """``neighbours`` finds rows near to any row; rows from ``linked`` on may be missing among those that it finds."""

    neighbours: Neighbours
    linked: int


def near_duplicate_groups(
    vectors: RowVectors, threshold: float, graph: RowGraph | None = None, seconds: float = float("inf")
) -> list[np.ndarray]:
    """Rows (int64, ascending) of every group of two or more; the largest group first, of equal ones the first row's.

    Compares every pair; with ``graph`` only the pairs that it finds, so that a link may be missed, and every pair of
    the rows that it does not link.

    Args:
        vectors: compared by direction alone.
        threshold: the cosine from which on two rows are linked.
        seconds: time limit.

    Raises:
        UserError: ``too_large`` after the time limit.
    """
    # One thread makes all products. Several would wait for each other at each of thousands of blocks: that took twice
    # the processors' time, and six times as long where others used them too.
    with threadpool_limits(1, user_api="blas"):
        return _linked_groups(vectors, threshold, graph, seconds)


def _linked_groups(vectors: RowVectors, threshold: float, graph: RowGraph | None, seconds: float) -> list[np.ndarray]:
    deadline = time.monotonic() + seconds
    rows, sets = _Rows(vectors), UnionFind(len(vectors))
    size = max(1, _NUMBERS // vectors.shape[1])
    for left, right in _pairs(rows, threshold - _SCREENED, sets, graph):
        if time.monotonic() > deadline:
            message = f"the near-duplicates among {len(vectors):,} images were not found within {seconds:g} seconds"
            raise UserError(message, code="too_large")
        for start in range(0, len(left), size):
            some = sets.unmerged(left[start : start + size], right[start : start + size])
            linked = rows.cosines(*some) >= threshold - _ROUNDING
            sets.join(some[0][linked], some[1][linked])
    return sets.groups()


class UnionFind:
    """Union-find over rows, for many pairs at a time."""

    def __init__(self, rows: int) -> None:
        self._parent = np.arange(rows)

    def roots(self, rows: np.ndarray) -> np.ndarray:
        """The root of each row's set. All paths are halved at once: log n rounds for a chain."""
        while True:
            above = self._parent[rows]
            top = self._parent[above]
            if np.array_equal(above, top):
                return above
            self._parent[rows] = top

    def unmerged(self, left: np.ndarray, right: np.ndarray) -> Pairs:
        """The pairs whose rows are not yet in one set."""
        other = self.roots(left) != self.roots(right)
        return left[other], right[other]

    def join(self, left: np.ndarray, right: np.ndarray) -> None:
        """Merge the sets of ``left[i]`` and ``right[i]``, for every i."""
        while len(left):
            left, right = self.unmerged(self.roots(left), self.roots(right))
            np.minimum.at(self._parent, np.maximum(left, right), np.minimum(left, right))

    def groups(self) -> list[np.ndarray]:
        """Ascending rows of each group of two or more, as ``groups`` returns them."""
        roots = self.roots(np.arange(len(self._parent)))
        order = np.argsort(roots, kind="stable")
        starts = np.flatnonzero(np.diff(roots[order])) + 1
        found = [rows for rows in np.split(order, starts) if len(rows) > 1]
        return sorted(found, key=lambda rows: (-len(rows), int(rows[0])))


class _Rows:
    """Vectors of any length by their directions: half precision leaves those of length 1 a little longer or shorter."""

    def __init__(self, vectors: RowVectors) -> None:
        self._vectors = vectors
        self._lengths = np.ones(len(vectors), np.float32)
        for block in self.blocks():
            lengths = np.linalg.norm(vectors[block].astype(np.float32), axis=1)
            self._lengths[block] = np.maximum(lengths, np.finfo(np.float32).tiny)

    def __len__(self) -> int:
        return len(self._vectors)

    def blocks(self, first: int = 0) -> Iterator[slice]:
        return (slice(start, min(start + BLOCK_ROWS, len(self))) for start in range(first, len(self), BLOCK_ROWS))

    def rest(self, first: int) -> _Rows:
        """The rows from ``first`` on."""
        return _Rows(self._vectors[first:])

    def directions(self, chosen: slice | np.ndarray) -> np.ndarray:
        """f32 [m, E] of length 1."""
        return self._vectors[chosen].astype(np.float32) / self._lengths[chosen, None]

    def cosines(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """f32 [m]: of each pair."""
        return np.einsum("me,me->m", self.directions(left), self.directions(right))

    def sketches(self) -> np.ndarray:
        """f32 [n, SKETCH + 1] whose dot products are no less than the cosines.

        The coordinates along the axes that hold most of the vectors, and the length of what lies outside them: two
        rests have at most the product of their lengths in common. Where E is small, the directions themselves.
        """
        if self._vectors.shape[1] <= SKETCH + 1 or len(self) < 2:
            return self.directions(slice(None))
        sample = self.directions(np.linspace(0, len(self) - 1, num=min(_SAMPLED, len(self))).astype(np.int64))
        axes = np.linalg.eigh(sample.T @ sample)[1][:, ::-1].astype(np.float32)
        sketches = np.empty((len(self), SKETCH + 1), np.float32)
        for block in self.blocks():
            inside = self.directions(block) @ axes[:, :SKETCH]
            rest = np.sqrt(np.maximum(0.0, 1.0 - np.square(inside).sum(1, keepdims=True)))
            sketches[block] = np.concatenate([inside, rest], axis=1)
        return sketches


def _pairs(rows: _Rows, limit: float, sets: UnionFind, graph: RowGraph | None) -> Iterator[Pairs]:
    """The pairs to compare."""
    if graph is None:
        yield from _candidate_pairs(rows, limit, sets)
        return
    yield from _neighbour_pairs(rows, graph.neighbours)
    if graph.linked < len(rows):
        yield from _candidate_pairs(rows.rest(graph.linked), limit, sets, graph.linked)


def _candidate_pairs(rows: _Rows, limit: float, sets: UnionFind, first: int = 0) -> Iterator[Pairs]:
    """Of each two blocks the pairs that may be linked and are not known to belong together.

    Args:
        first: number of the first of ``rows`` in ``sets``, and in the pairs.
    """
    sketches = rows.sketches()
    numbers = np.arange(first, first + len(rows))
    bounds = np.empty((min(BLOCK_ROWS, len(rows)),) * 2, np.float32)  # once: new memory costs as much as the product
    for ours in rows.blocks():
        for theirs in rows.blocks(ours.start):
            room = bounds[: ours.stop - ours.start, : theirs.stop - theirs.start]
            reach = np.matmul(sketches[ours], sketches[theirs].T, out=room) >= limit
            if ours == theirs:
                reach = np.triu(reach, 1)
            many = reach.size / _SINGLY
            if np.count_nonzero(reach) > many:  # of few pairs those that are together already are left out later
                reach &= sets.roots(numbers[ours])[:, None] != sets.roots(numbers[theirs])
                if np.count_nonzero(reach) > many:
                    reach &= np.matmul(rows.directions(ours), rows.directions(theirs).T, out=room) >= limit
            left, right = np.divmod(np.flatnonzero(reach), reach.shape[1])  # a fifth of the time of np.nonzero
            yield left + first + ours.start, right + first + theirs.start


def _neighbour_pairs(rows: _Rows, neighbours: Neighbours) -> Iterator[Pairs]:
    """Each row with its nearest."""
    for ours in rows.blocks():
        right = neighbours(rows.directions(ours), NEIGHBOURS)
        left = np.broadcast_to(np.arange(ours.start, ours.stop)[:, None], right.shape)
        valid = (right >= 0) & (right != left)
        yield left[valid], right[valid]
