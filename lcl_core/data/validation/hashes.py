"""Which contents were seen before, within a fixed memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class HashSet:
    """64-bit hashes in sorted arrays: 8 bytes each, twice that while two arrays become one.

    Exact up to ``capacity`` different hashes. Beyond, only those whose lowest bit is 0 are kept and looked for,
    then those whose two lowest bits are 0, and so on: memory stays the same, and ``duplicates`` becomes an unbiased
    estimate, since each one found counts for as many as were not looked at. Two different contents share a hash
    with a chance of n²/2^65 among n: 3 in a million at 10 million.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.duplicates = 0.0
        self._skipped_bits = 0
        self._runs: list[np.ndarray] = []  # sorted, each at most half as long as the one before

    @property
    def share(self) -> float:
        """Of all hashes, those that are looked at: 1.0 means that ``duplicates`` is exact."""
        return 2.0**-self._skipped_bits

    @property
    def distinct(self) -> float:
        """Different hashes seen, an estimate where ``share`` is below 1."""
        return len(self) / self.share

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    def add(self, hashes: Sequence[int]) -> np.ndarray:
        """Add hashes in their order; which of them were there before, earlier ones of the same call included.

        Returns: bool [n]; always False for what is not looked at.
        """
        given = np.asarray(hashes, np.uint64)
        looked_at = self._looked_at(given)
        unique, first = np.unique(given, return_index=True)
        known = np.ones(len(given), bool)
        known[first] = False
        for run in self._runs:
            place = np.minimum(np.searchsorted(run, given), len(run) - 1)
            known |= run[place] == given
        known &= looked_at
        self.duplicates += float(np.count_nonzero(known)) / self.share
        fresh = unique[looked_at[first] & ~known[first]]
        if len(fresh):
            self._keep(fresh)
        return known

    def _looked_at(self, hashes: np.ndarray) -> np.ndarray:
        return (hashes & np.uint64((1 << self._skipped_bits) - 1)) == 0

    def _keep(self, fresh: np.ndarray) -> None:
        self._runs.append(fresh)
        while len(self._runs) > 1 and 2 * len(self._runs[-1]) > len(self._runs[-2]):
            last = self._runs.pop()
            # sorting two sorted halves is a merge for the stable sort
            self._runs[-1] = np.sort(np.concatenate((self._runs[-1], last)), kind="stable")
        while len(self) > self.capacity:
            self._skipped_bits += 1
            kept = [run[self._looked_at(run)] for run in self._runs]
            self._runs = [run for run in kept if len(run)]
