"""Nearest-neighbour search delegated to an external index, such as pgvector. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from lcl_core.collections.file_format import Target
from lcl_core.collections.flat_index import nearest


class SearchFn(Protocol):
    def __call__(self, target: Target, query: list[float], k: int, rows: Sequence[int], among: bool) -> Sequence[int]:
        """Up to ``k`` rows near to ``query``, in any order: ``among`` these, or among all but these.

        Fewer where the index finds no more, or has lost the vectors.
        """


class ExternalIndex:
    """Index of the images, or of the texts. Thread-safe.

    Rows found are ranked again by the collection's own vectors, so that scores are exact; where too few are found, all
    vectors are compared.
    """

    def __init__(self, search: SearchFn, target: Target, vectors: np.ndarray) -> None:
        self._search = search
        self._target = target
        self._vectors = vectors

    def nearest(self, query: np.ndarray, k: int, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """As ``flat_index.nearest``, but a neighbour may be missed. Raises: what the search function raises."""
        count = min(k, len(self._vectors) if rows is None else len(rows))
        listed, among = self._row_filter(rows)
        found = self._search(self._target, query.tolist(), count, listed, among) if count else ()
        if len(found) < count:
            return nearest(self._vectors, query, k, rows)
        return nearest(self._vectors, query, k, np.sort(np.asarray(found, dtype=np.int64)))

    def _row_filter(self, rows: np.ndarray | None) -> tuple[list[int], bool]:
        """The rows to choose from, or those to leave out: whichever are fewer."""
        if rows is None:
            return [], False
        if 2 * len(rows) <= len(self._vectors):
            return rows.tolist(), True
        others = np.ones(len(self._vectors), dtype=bool)
        others[rows] = False
        return np.flatnonzero(others).tolist(), False
