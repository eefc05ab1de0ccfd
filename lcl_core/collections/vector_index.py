"""Queries as weighted sums of vectors, and their nearest neighbours: exactly, by an HNSW graph, or an external index.

The graph (Malkov and Yashunin 2018) is for large collections; it contains the vectors and is memory-mapped, and a
search reads no other file. Imports no torch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lcl_core.common.errors import UserError
from lcl_core.common.processes import usable_cores
from lcl_core.vector_indexes import UNUSABLE, SearchFn, Target, unusable

if TYPE_CHECKING:
    from usearch.index import Index

log = logging.getLogger(__name__)
BLOCK_ROWS = 8192  # 16 MB of f32 at 512 numbers: fits the last-level cache, so f16 is widened only there


Vector = Sequence[float] | np.ndarray
# float32 rounding over a few hundred numbers: the direction of a shorter sum is noise
MIN_LENGTH = 1e-5


def unit_vector(vector: Vector, dim: int, field: str = "vector") -> np.ndarray:
    """f32 [dim] of length 1. Raises: UserError ``invalid_value``, naming the field."""
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as that
        query = np.asarray(vector, dtype=np.float32)
    if query.shape != (dim,):
        message = f"the vector has shape {query.shape}; this collection's have {dim} numbers"
        raise UserError(message, field=field)
    length = float(np.linalg.norm(query))
    if not np.isfinite(length) or length == 0:
        raise UserError("the vector is all zero, or not finite", field=field)
    return query / length


def combine_vectors(parts: Mapping[str, Vector], weights: Mapping[str, float], dim: int) -> np.ndarray:
    """f32 [dim] of length 1: the direction of the weighted sum of the parts, each scaled to length 1 first.

    Args:
        parts: vectors of any length, by name.
        weights: by the same names, may be negative; 1 where missing.

    Raises:
        UserError: ``invalid_value``, naming the part, or ``weights`` where the sum cancels out.
    """
    total = np.zeros(dim, np.float32)
    for name, vector in parts.items():
        total += np.float32(weights.get(name, 1.0)) * unit_vector(vector, dim, name)
    largest = max((abs(weights.get(name, 1.0)) for name in parts), default=0.0)
    if float(np.linalg.norm(total)) <= MIN_LENGTH * largest:
        message = "weights: the weighted sum cancels out, so that it has no direction; change a weight"
        raise UserError(message, field="weights")
    return unit_vector(total, dim)


def nearest(
    vectors: np.ndarray, query: np.ndarray, k: int, rows: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` rows with the largest dot product; of equal scores the lower row wins.

    Args:
        vectors: [n, E], f32 or f16, memory-mapped or not.
        query: [E] f32.
        k: at most this many.
        rows: ascending row numbers to search (a filter's result); none: all.

    Returns:
        Row numbers int64 [m] and scores f32 [m], best first, m = min(k, rows searched).
    """
    total = len(vectors) if rows is None else len(rows)
    best_rows, best_scores = np.empty(0, np.int64), np.empty(0, np.float32)
    for start in range(0, total, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, total)
        block_rows = np.arange(start, stop) if rows is None else rows[start:stop]
        first, last = int(block_rows[0]), int(block_rows[-1]) + 1
        if last - first <= 2 * len(block_rows):  # to copy single rows takes longer than to compare a few more
            scores = (vectors[first:last].astype(np.float32, copy=False) @ query)[block_rows - first]
        else:
            scores = vectors[block_rows].astype(np.float32, copy=False) @ query
        best_rows = np.concatenate((best_rows, block_rows))
        best_scores = np.concatenate((best_scores, scores))
        kept = _largest(best_scores, k)
        best_rows, best_scores = best_rows[kept], best_scores[kept]
    order = np.argsort(-best_scores, kind="stable")
    return best_rows[order], best_scores[order]


def _largest(scores: np.ndarray, k: int) -> np.ndarray:
    """Ascending positions of the ``k`` largest; ties at the border go to the earlier position."""
    if len(scores) <= k:
        return np.arange(len(scores))
    border = np.partition(scores, len(scores) - k)[len(scores) - k]
    above = np.flatnonzero(scores > border)
    level = np.flatnonzero(scores == border)[: k - len(above)]
    return np.sort(np.concatenate((above, level)))


class ExternalIndex:
    """Index of the images, or of the texts. Thread-safe.

    Rows found are ranked again by the collection's own vectors [n, E], so that scores are exact. All vectors are
    compared where too few are found, and, with one warning, where the index cannot be used.
    """

    def __init__(self, search: SearchFn, target: Target, vectors: np.ndarray) -> None:
        self._search = search
        self._target = target
        self._vectors = vectors
        self._warned = False

    def nearest(self, query: np.ndarray, k: int, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """As ``nearest``, but a neighbour may be missed."""
        count = min(k, len(self._vectors) if rows is None else len(rows))
        found = self._proposed(query.tolist(), count, rows) if count else np.empty(0, np.int64)
        return nearest(self._vectors, query, k, rows if len(found) < count else found)

    def _proposed(self, query: list[float], count: int, rows: np.ndarray | None) -> np.ndarray:
        """Ascending rows; none where the index cannot be used."""
        total = len(self._vectors)
        try:
            found = np.unique(np.asarray(self._filtered(query, count, rows, total), np.int64))
            if len(found) and not 0 <= found[0] <= found[-1] < total:
                raise unusable(f"row {found[-1]} of {total} was found: these are other vectors")
            return found
        except UserError as error:
            if error.code not in (UNUSABLE, "missing_extra"):
                raise
            if not self._warned:
                log.warning("index of %s cannot be used, all vectors are compared: %s", self._target, error.message)
                self._warned = True
            return np.empty(0, np.int64)

    def _filtered(self, query: list[float], count: int, rows: np.ndarray | None, total: int) -> Sequence[int]:
        """The index gets the rows to choose from, or those to leave out: whichever are fewer. Where these are too many
        for a request, more neighbours are searched for without a filter, and those that it does not pass are dropped.
        """
        if rows is None:
            return self._search(self._target, query, count, [], False)
        among = 2 * len(rows) <= total
        listed = rows if among else np.setdiff1d(np.arange(total), rows, assume_unique=True)
        if len(listed) <= MAX_LISTED:
            return self._search(self._target, query, count, listed.tolist(), among)
        enough = _count_before_filter(count, len(rows), total)
        if enough is None:
            return []
        found = np.asarray(self._search(self._target, query, enough, [], False), np.int64)
        return found[np.isin(found, rows)][:count].tolist()


MAX_LISTED = 5_000  # rows in a filter of an external index


def _count_before_filter(k: int, passing: int, total: int) -> int | None:
    """Number of neighbours among which ``k`` are expected that pass a filter; None: too many.

    Where few rows are left out, no more than those can take places of others, and twice ``k`` is plenty.

    Args:
        passing: rows that the filter leaves, of ``total``.
    """
    left_out = total - passing
    if FEW_LEFT_OUT * left_out <= total:
        return None if k > MAX_NEIGHBOURS else k + min(left_out, k)
    enough = k * 2 * total // max(passing, 1)
    return None if enough > MAX_NEIGHBOURS else enough


FEW_LEFT_OUT = 4  # one row in so many
EXACT_ROWS = 100_000  # up to here one pass over all vectors is fast enough, and exact
MAX_F16_ROWS = 10_000_000  # beyond, the graph's own vectors are int8 and what it finds is compared again
MAX_NEIGHBOURS = 1_000  # for more, one exact pass is no slower; twice as many where few rows are left out
LINKS = 16  # of a node on each level, twice that on the lowest
EXPANSION_ADD, EXPANSION_SEARCH = 128, 64  # candidates kept while a node is linked; while a query walks
OVERSAMPLING = 4  # int8: so many candidates for each answer
_FIRST_ROWS = 1_000  # linked by one thread: threads that begin an empty graph together leave nodes unreachable
_CHUNK_ROWS = 10_000


class HnswIndex:
    """Open with ``HnswIndex.open``. Thread-safe."""

    def __init__(self, index: Index, vectors: np.ndarray) -> None:
        self._index = index
        self._vectors = vectors
        self._rough = str(index.dtype) == "ScalarKind.I8"

    @classmethod
    def open(cls, path: Path, vectors: np.ndarray) -> HnswIndex:
        """The graph in a file, over the rows of ``vectors`` [n, E].

        Raises:
            UserError: ``collection_unreadable``, naming the file; ``missing_extra`` without usearch.
        """
        try:
            index = load_hnsw_graph(path, view=True)
        except (RuntimeError, ValueError) as error:
            index, why = None, f": {error}"
        else:
            why = ""
        if index is None or (len(index), index.ndim) != vectors.shape:
            message = f"{path.name} is not the graph of these vectors{why}; make the collection again with an index run"
            raise UserError(message, code="collection_unreadable", file=path)
        index.expansion_search = EXPANSION_SEARCH
        return cls(index, vectors)

    def nearest(self, query: np.ndarray, k: int, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """As ``nearest``, but a neighbour may be missed.

        A filter is applied before the top-k: where too few neighbours pass it, all of ``rows`` are compared.

        Args:
            query: f32 [E] of length 1.
            rows: ascending row numbers to choose from; none: all.
        """
        total = len(self._vectors)
        count = _count_before_filter(k, total if rows is None else len(rows), total)
        if count is None or (rows is not None and len(rows) <= EXACT_ROWS):
            return nearest(self._vectors, query, k, rows)
        found, scores = self._walk(query, count)
        if rows is not None:
            at = np.searchsorted(rows, found)
            passed = rows[np.minimum(at, len(rows) - 1)] == found
            found, scores = found[passed], scores[passed]
            if len(found) < min(k, len(rows)):
                return nearest(self._vectors, query, k, rows)
        return found[:k], scores[:k]

    def neighbours(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Rows int64 [b, k] near to each of ``queries`` f32 [b, E] of length 1; -1 where fewer were found."""
        matches: Any = self._index.search(queries, k, threads=usable_cores())
        found = np.asarray(matches.keys, dtype=np.int64).reshape(len(queries), -1)
        counts = np.asarray(matches.counts).reshape(-1, 1)
        return np.where(np.arange(found.shape[1]) < counts, found, -1)

    def _walk(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        matches = self._index.search(query, k * OVERSAMPLING if self._rough else k)
        found = np.asarray(matches.keys, dtype=np.int64)
        if self._rough:
            return nearest(self._vectors, query, k, np.sort(found))
        return found, np.clip(1.0 - np.asarray(matches.distances, dtype=np.float32), -1.0, 1.0)


def hnsw_graph(dim: int, rows: int) -> Any:
    """An empty graph for so many rows. Raises: UserError ``missing_extra`` without usearch."""
    dtype = "f16" if rows <= MAX_F16_ROWS else "i8"
    return _usearch()(ndim=dim, metric="cos", dtype=dtype, connectivity=LINKS, expansion_add=EXPANSION_ADD)


def load_hnsw_graph(path: Path, *, view: bool) -> Any:
    """The graph in a file, memory-mapped with ``view``; None: it holds none.

    Raises: UserError ``missing_extra``; RuntimeError, ValueError for a file that is no graph.
    """
    return _usearch().restore(path, view=view)


def write_hnsw_index(path: Path, vectors: np.ndarray, progress: Callable[[int], None] = lambda rows: None) -> None:
    """Link all rows of ``vectors`` [n, E], of length 1, and write the graph. In memory until it is whole.

    Args:
        progress: receives the number of rows linked so far; its exceptions end the build.

    Raises: UserError ``missing_extra`` without usearch.
    """
    index = hnsw_graph(vectors.shape[1], len(vectors))
    starts = [0, *range(_FIRST_ROWS, len(vectors), _CHUNK_ROWS)]
    for start, end in zip(starts, [*starts[1:], len(vectors)], strict=True):
        chunk = np.asarray(vectors[start:end], dtype=np.float32)
        index.add(np.arange(start, end, dtype=np.uint64), chunk, threads=usable_cores() if start else 1)
        progress(end)
    index.save(path)


def chosen_first(numbers: np.ndarray, first: np.ndarray, limit: int) -> np.ndarray:
    """``limit`` of ``numbers`` at most: those that are in ``first``, in its order, then others in theirs."""
    is_first = np.isin(numbers, first)
    return np.concatenate((first[np.isin(first, numbers[is_first])], numbers[~is_first][:limit]))[:limit]


def _usearch() -> Any:
    try:
        from usearch.index import Index
    except ImportError as error:
        message = "a large collection needs usearch, which is not installed; `pip install 'lcl[service]'` brings it"
        raise UserError(message, code="missing_extra") from error
    return Index
