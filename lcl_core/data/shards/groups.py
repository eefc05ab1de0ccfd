"""Selections by kind, split and source: rank and select over block counts, never a list of records."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from lcl_core.data.shards.layout import BLOCK, CODE


@dataclass(frozen=True, slots=True)
class Group:
    """Records of one kind, split and source."""

    kind: str
    split: str
    source: str


def count_blocks(codes: np.ndarray, groups: int) -> np.ndarray:
    """Codes of all records → uint16 [blocks, groups]."""
    blocks = -(-len(codes) // BLOCK)
    counts = np.empty((blocks, groups), CODE)
    for block in range(blocks):
        counts[block] = np.bincount(codes[block * BLOCK : (block + 1) * BLOCK], minlength=groups)
    return counts


class Selection:
    """The records of some groups, in the order of the corpus.

    Memory: eight bytes for each 4,096 records; an item costs a search in these and a look at one block.

    Args:
        codes: group of each record, mapped.
        counts: of each group in each block, [blocks, groups], mapped.
        wanted: codes of the groups that count.
    """

    def __init__(self, codes: np.ndarray, counts: np.ndarray, wanted: Collection[int]) -> None:
        self._codes = codes
        columns = sorted(wanted)
        self._wanted = np.zeros(counts.shape[1], bool)
        self._wanted[columns] = True
        self._everything = len(columns) == counts.shape[1]
        self._ends = np.cumsum(counts[:, columns].sum(axis=1, dtype=np.int64))

    @property
    def blocks(self) -> int:
        return len(self._ends)

    def before(self, block: int) -> int:
        """How many selected records stand before a block."""
        return int(self._ends[block - 1]) if block else 0

    def mask(self, block: int) -> np.ndarray:
        """Which records of a block are selected."""
        start = block * BLOCK
        return self._wanted[self._codes[start : start + BLOCK]]

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, place: int) -> int:
        """The record at ``place`` (a negative one counts from the end)."""
        size = len(self)
        place = place + size if place < 0 else place
        if not 0 <= place < size:
            raise IndexError(place)
        if self._everything:
            return place
        block = int(np.searchsorted(self._ends, place, side="right"))
        return block * BLOCK + int(np.flatnonzero(self.mask(block))[place - self.before(block)])
