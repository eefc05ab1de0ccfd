"""The best k of a stream of score blocks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class RunningTop:
    """Keeps each row's k best candidates while blocks of candidates pass by; equal scores keep index order.

    Only rows whose best new score beats their k-th best are looked at further, so once the rows are warm a block costs
    one maximum a row.
    """

    def __init__(self, rows: int, k: int) -> None:
        self.k = k
        self.score = np.full((rows, k), -np.inf)
        self.index = np.full((rows, k), -1, np.int64)

    def offer(self, rows: slice, scores: NDArray[np.floating], best: NDArray[np.floating], first: int) -> None:
        """Take a block in.

        Args:
            rows: which rows the block is for.
            scores: [len(rows), B] finite scores of candidates first … first + B - 1.
            best: [len(rows)] the highest of each row.
        """
        kept = self.score[rows]
        moved = np.flatnonzero(best > kept[:, -1])
        if not len(moved):
            return
        kept, scores = kept[moved], scores[moved]
        new_row, column = np.divmod(np.flatnonzero(self._promising(kept, scores)), scores.shape[1])
        old_row = np.repeat(np.arange(len(moved)), self.k)
        all_rows = np.concatenate([old_row, new_row])
        all_scores = np.concatenate([kept.ravel(), scores[new_row, column]])
        all_index = np.concatenate([self.index[rows][moved].ravel(), column + first])
        order = np.lexsort((all_index, -all_scores, all_rows))
        starts = np.searchsorted(all_rows[order], np.arange(len(moved)))
        kept_now = order[starts[:, None] + np.arange(self.k)]
        self.score[rows.start + moved] = all_scores[kept_now]
        self.index[rows.start + moved] = all_index[kept_now]

    def merge(self, other: RunningTop) -> None:
        """Take in what another one kept of other candidates for the same rows."""
        score = np.concatenate([self.score, other.score], axis=1)
        index = np.concatenate([self.index, other.index], axis=1)
        order = np.lexsort((index, -score), axis=1)[:, : self.k]
        self.score = np.take_along_axis(score, order, axis=1)
        self.index = np.take_along_axis(index, order, axis=1)

    def _promising(self, kept: NDArray[np.floating], scores: NDArray[np.floating]) -> NDArray[np.bool_]:
        """[len(kept), B] which candidates can enter; a row that is not yet full takes its block's k best."""
        full = np.isfinite(kept[:, -1])
        entering = scores > kept[:, -1:].astype(scores.dtype)  # a wider type would copy the block
        if not full.all() and scores.shape[1] > self.k:
            kth = np.partition(scores[~full], -self.k, axis=1)[:, -self.k, None]
            entering[~full] = scores[~full] >= kth
        return entering
