"""Where named things lie: 40 bytes a name, whatever the name's length."""

from __future__ import annotations

import hashlib
from array import array

import numpy as np

_WIDTH = 5


class PlaceIndex:
    """Maps text to (file number, offset, size). Fill with ``add``, then ``seal``, then ``find``.

    Names are kept as 128-bit hashes: two names meet by chance once in 10^18 for a billion images.
    """

    def __init__(self) -> None:
        self._rows = array("Q")
        self._sorted = np.empty((0, _WIDTH), np.uint64)

    def add(self, name: str, file: int, offset: int, size: int) -> None:
        self._rows.extend((*_hash(name), file, offset, size))

    def seal(self) -> None:
        """Sort, stably: of two things of one name the first is found."""
        rows = np.frombuffer(self._rows, np.uint64).reshape(-1, _WIDTH)
        self._sorted = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
        self._rows = array("Q")

    def repeated(self) -> int:
        """How many names were added that were there already."""
        first, second = self._sorted[:-1, :2], self._sorted[1:, :2]
        return int((first == second).all(axis=1).sum())

    def find(self, name: str) -> tuple[int, int, int] | None:
        """(file number, offset, size) of the first thing added under ``name``."""
        high, low = _hash(name)
        row = int(np.searchsorted(self._sorted[:, 0], np.uint64(high)))
        while row < len(self._sorted) and self._sorted[row, 0] == high:
            if self._sorted[row, 1] == low:
                file, offset, size = (int(value) for value in self._sorted[row, 2:])
                return file, offset, size
            row += 1
        return None


def _hash(name: str) -> tuple[int, int]:
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
