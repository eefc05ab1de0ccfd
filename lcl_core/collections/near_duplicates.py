"""Near-duplicate groups: rows with cosines to the group's centre from a threshold on. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from threadpoolctl import threadpool_limits

from lcl_core.common.errors import UserError

BLOCK_ROWS = 1024  # a block's cosines with another's are 4 MB
NEIGHBOURS = 32  # compared of each row where there is a graph
SKETCH = 128  # numbers of each vector that are compared with all others, before the whole ones are
SINGLY = 256  # times as long does a pair take that is compared by itself as one in a product of two blocks
_SAMPLED = 8192  # rows that the sketch's axes are taken from
_ROUNDING, _SCREENED = 1e-6, 1e-5  # what float32 may be off in a cosine, and in the sum that bounds it

Pairs = tuple[np.ndarray, np.ndarray]
Neighbours = Callable[[np.ndarray, int], np.ndarray]  # f32 [b, E], k -> rows int64 [b, k], -1 where there are fewer


class RowVectors(Protocol):
    """An array [n, E], f32 or f16, in memory or not, of which blocks and single rows are read."""

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
    """Rows (int64) of every group of two or more, its centre first; the largest group first.

    The centre of a group is the row with the most links of those that are in no group yet; the group has the rows that
    are linked to it. Compares every pair; with ``graph`` only the pairs that it finds, so that a link may be missed,
    and every pair of the rows that it does not link.

    Args:
        vectors: compared by direction alone.
        threshold: the cosine from which on two rows are linked.
        seconds: time limit.

    Raises:
        UserError: ``too_large`` after the time limit.
    """
    deadline, sets, limit = time.monotonic() + seconds, UnionFind(len(vectors)), threshold - _ROUNDING

    def check_time() -> None:
        if time.monotonic() > deadline:
            message = f"the near-duplicates among {len(vectors):,} images were not found within {seconds:g} seconds"
            raise UserError(f"{message}; raise the threshold", code="too_large", field="threshold")

    # One thread makes all products. Several would wait for each other at each of thousands of blocks: that took twice
    # the processors' time, and six times as long where others used them too.
    with threadpool_limits(1, user_api="blas"):
        for left, right in _linked_pairs(vectors, limit, sets, graph):
            check_time()
            sets.join(left, right)
        found = [group for rows in sets.groups() for group in _cut_at_centres(vectors, rows, limit, check_time)]
    return sorted(found, key=lambda group: (-len(group), int(group[0])))


def _cut_at_centres(
    vectors: RowVectors, rows: np.ndarray, limit: float, check_time: Callable[[], None]
) -> Iterator[np.ndarray]:
    """The groups among rows that are linked directly or through others."""
    directions, links = _directions(vectors[rows]), np.zeros(len(rows), np.int64)
    for ours in _blocks(0, len(rows)):
        for theirs in _blocks(0, len(rows)):
            links[ours] += np.count_nonzero(directions[ours] @ directions[theirs].T >= limit, axis=1)
    is_free = np.ones(len(rows), dtype=bool)
    for centre in np.argsort(-links, kind="stable"):
        if is_free[centre]:
            check_time()
            is_free[centre] = False
            others = np.flatnonzero(is_free & (directions @ directions[centre] >= limit))
            is_free[others] = False
            if len(others):
                yield rows[np.append(centre, others)]


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

    def join(self, left: np.ndarray, right: np.ndarray) -> None:
        """Merge the sets of ``left[i]`` and ``right[i]``, for every i."""
        while len(left):
            left, right = self.roots(left), self.roots(right)
            other = left != right
            left, right = left[other], right[other]
            np.minimum.at(self._parent, np.maximum(left, right), np.minimum(left, right))

    def groups(self) -> list[np.ndarray]:
        """Ascending rows of each set of two or more."""
        roots = self.roots(np.arange(len(self._parent)))
        order = np.argsort(roots, kind="stable")
        starts = np.flatnonzero(np.diff(roots[order])) + 1
        return [rows for rows in np.split(order, starts) if len(rows) > 1]


def _linked_pairs(vectors: RowVectors, limit: float, sets: UnionFind, graph: RowGraph | None) -> Iterator[Pairs]:
    if graph is None:
        yield from _pairs_of_all(vectors, limit, sets)
        return
    for ours in _blocks(0, len(vectors)):
        directions = _directions(vectors[ours])
        found = graph.neighbours(directions, NEIGHBOURS)
        left, column = np.nonzero(found >= 0)
        right = found[left, column]
        linked = np.einsum("me,me->m", directions[left], _directions(vectors[right])) >= limit
        yield left[linked] + ours.start, right[linked]
    yield from _pairs_of_all(vectors, limit, sets, graph.linked)


def _pairs_of_all(vectors: RowVectors, limit: float, sets: UnionFind, first: int = 0) -> Iterator[Pairs]:
    """The linked pairs of the rows from ``first`` on, each block with each: first by bounds of the cosines."""
    sketches, rows = _sketches(vectors, first), np.arange(len(vectors))
    for ours in _blocks(first, len(vectors)):
        directions = _directions(vectors[ours])
        for theirs in _blocks(ours.start, len(vectors)):
            bounds = sketches[ours.start - first : ours.stop - first] @ sketches[theirs.start - first :][:BLOCK_ROWS].T
            near = bounds >= limit - _SCREENED
            if np.count_nonzero(near) > near.size // SINGLY:  # many of them may belong together already
                near &= sets.roots(rows[ours])[:, None] != sets.roots(rows[theirs])
            left, right = np.divmod(np.flatnonzero(near), near.shape[1])  # as np.nonzero, in a fifth of the time
            if len(left) > near.size // SINGLY:
                cosines = directions @ _directions(vectors[theirs]).T
                left, right = np.divmod(np.flatnonzero(cosines >= limit), cosines.shape[1])
            else:
                linked = np.einsum("me,me->m", directions[left], _directions(vectors[right + theirs.start])) >= limit
                left, right = left[linked], right[linked]
            yield left + ours.start, right + theirs.start


def _sketches(vectors: RowVectors, first: int) -> np.ndarray:
    """f32 [n - first, SKETCH + 1] whose dot products are no less than the cosines.

    The coordinates along the axes that hold most of a sample, and the length of what lies outside them: two rests have
    at most the product of their lengths in common. Where vectors are that short, the directions themselves.
    """
    if first >= len(vectors):
        return np.empty((0, 1), np.float32)
    sample = _directions(vectors[np.unique(np.linspace(first, len(vectors) - 1, num=_SAMPLED).astype(np.int64))])
    if sample.shape[1] <= SKETCH + 1:
        return _directions(vectors[first:])
    axes = np.linalg.eigh(sample.T @ sample)[1][:, : -SKETCH - 1 : -1].astype(np.float32)
    sketches = np.empty((len(vectors) - first, SKETCH + 1), np.float32)
    for block in _blocks(first, len(vectors)):
        inside = _directions(vectors[block]) @ axes
        rest = np.sqrt(np.maximum(0.0, 1.0 - np.square(inside).sum(1, keepdims=True)))
        sketches[block.start - first : block.stop - first] = np.concatenate([inside, rest], axis=1)
    return sketches


def _blocks(first: int, last: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK_ROWS, last)) for start in range(first, last, BLOCK_ROWS))


def _directions(vectors: np.ndarray) -> np.ndarray:
    """f32 [m, E] of length 1: half precision leaves vectors of length 1 a little longer or shorter."""
    rows = vectors.astype(np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny)
