"""Approximate nearest neighbours by an HNSW graph (Malkov and Yashunin 2018), for large collections.

The graph contains the vectors and is memory-mapped; a search reads no other file. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lcl_core.collections.flat_index import nearest
from lcl_core.common.errors import UserError
from lcl_core.common.threads import usable_cores

if TYPE_CHECKING:
    from usearch.index import Index

EXACT_ROWS = 100_000  # up to here one pass over all vectors is fast enough, and exact
MAX_F16_ROWS = 10_000_000  # beyond, the graph's own vectors are int8 and what it finds is compared again
MAX_NEIGHBOURS = 1_000  # asked for more, one pass is no slower
LINKS = 16  # of a node on each level, twice that on the lowest
EXPANSION_ADD, EXPANSION_SEARCH = 128, 64  # candidates kept while a node is linked; while a query walks
OVERSAMPLING = 4  # int8: so many candidates for each answer
_CHUNK_ROWS = 10_000

OnProgress = Callable[[int], None]  # receives the number of rows linked since the last call


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
            index = _usearch().restore(path, view=True)
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
        """As ``flat_index.nearest``, but a neighbour may be missed.

        A filter is applied before the top-k: where too few neighbours pass it, all of ``rows`` are compared.

        Args:
            query: f32 [E] of length 1.
            rows: ascending row numbers to choose from; none: all.
        """
        count = k if rows is None else k * 2 * len(self._vectors) // max(len(rows), 1)
        if count > MAX_NEIGHBOURS or (rows is not None and len(rows) <= EXACT_ROWS):
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


def write_hnsw_index(path: Path, vectors: np.ndarray, progress: OnProgress | None = None) -> None:
    """Link all rows of ``vectors`` [n, E], of length 1, and write the graph. In memory until it is whole.

    Raises: UserError ``missing_extra`` without usearch; whatever ``progress`` raises.
    """
    dtype = "f16" if len(vectors) <= MAX_F16_ROWS else "i8"
    index = _usearch()(
        ndim=vectors.shape[1], metric="cos", dtype=dtype, connectivity=LINKS, expansion_add=EXPANSION_ADD
    )
    for start in range(0, len(vectors), _CHUNK_ROWS):
        chunk = np.asarray(vectors[start : start + _CHUNK_ROWS], dtype=np.float32)
        index.add(np.arange(start, start + len(chunk), dtype=np.uint64), chunk, threads=usable_cores())
        if progress is not None:
            progress(len(chunk))
    index.save(path)


def _usearch() -> Any:
    try:
        from usearch.index import Index
    except ImportError as error:
        message = "a large collection needs usearch, which is not installed; `pip install 'lcl[service]'` brings it"
        raise UserError(message, code="missing_extra") from error
    return Index
