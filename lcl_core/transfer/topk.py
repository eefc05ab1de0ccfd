"""The best k of a stream of score blocks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class RunningTop:
    """Keeps each row's k best candidates while blocks of candidates pass by; equal scores keep index order.

    Only scores that beat a row's k-th best are sorted, so a block costs one comparison once the rows are
    warm.
    """

    def __init__(self, rows: int, k: int) -> None:
        self.k = k
        self.score = np.full((rows, k), -np.inf)
        self.index = np.full((rows, k), -1, np.int64)

    def offer(self, rows: slice, scores: NDArray[np.floating], first: int) -> None:
        """Take a block in.

        Args:
            rows: which rows the block is for.
            scores: [len(rows), B] finite scores of candidates first … first + B - 1.
        """
        kept = self.score[rows]
        new_row, column = _places(self._promising(kept, scores))
        touched, row = np.unique(new_row, return_inverse=True)
        if not len(touched):
            return
        old_row = np.repeat(np.arange(len(touched)), self.k)
        all_rows = np.concatenate([old_row, row])
        all_scores = np.concatenate([kept[touched].ravel(), scores[new_row, column]])
        all_index = np.concatenate([self.index[rows][touched].ravel(), column + first])
        order = np.lexsort((all_index, -all_scores, all_rows))
        starts = np.searchsorted(all_rows[order], np.arange(len(touched)))
        best = order[starts[:, None] + np.arange(self.k)]
        self.score[rows.start + touched] = all_scores[best]
        self.index[rows.start + touched] = all_index[best]

    def _promising(self, kept: NDArray[np.floating], scores: NDArray[np.floating]) -> NDArray[np.bool_]:
        """[len(rows), B] which candidates can enter; a row that is not yet full takes its block's k best."""
        full = np.isfinite(kept[:, -1])
        entering = scores > kept[:, -1:].astype(scores.dtype)  # a wider type would copy the block
        if not full.all() and scores.shape[1] > self.k:
            kth = np.partition(scores[~full], -self.k, axis=1)[:, -self.k, None]
            entering[~full] = scores[~full] >= kth
        return entering


def _places(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(row, column) of the true entries in any order: ``nonzero`` in memory order, several times as fast."""
    if mask.flags.c_contiguous:
        row, column = np.divmod(np.flatnonzero(mask.ravel()), mask.shape[1])
    else:
        column, row = np.divmod(np.flatnonzero(mask.T.ravel()), mask.shape[0])
    return row, column
