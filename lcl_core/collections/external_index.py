"""Nearest neighbours that somebody else looks up: a database that has the vectors too. Knows no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from lcl_core.collections.file_format import Target
from lcl_core.collections.flat_index import nearest


class SearchFn(Protocol):
    def __call__(self, target: Target, query: list[float], k: int, rows: Sequence[int], among: bool) -> Sequence[int]:
        """Up to ``k`` rows near to ``query``, in any order: ``among`` these, or among all but these.

        Fewer than there are where more cannot be found, or the vectors are not there any more.
        """


class ExternalIndex:
    """One side of a collection. Every method may be called from any thread.

    What is found is compared again with the collection's own vectors, so that scores are what they are without it;
    where too little is found, all are compared with.
    """

    def __init__(self, ask: SearchFn, target: Target, vectors: np.ndarray) -> None:
        self._ask = ask
        self._target = target
        self._vectors = vectors

    def nearest(self, query: np.ndarray, k: int, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """As ``nearest.nearest``, but a neighbour may be missed. Raises: whatever ``ask`` raises."""
        wanted = min(k, len(self._vectors) if rows is None else len(rows))
        listed, among = self._row_filter(rows)
        found = self._ask(self._target, query.tolist(), wanted, listed, among) if wanted else ()
        if len(found) < wanted:
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
