"""Pieces of documents in shards: counted from the index, a block at a time, and never listed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lcl_core.data.shards.groups import Selection


class ShardPieces:
    """A :class:`lcl_core.data.pieces.Pieces` in eight bytes for each 4,096 records.

    Opening it passes once over the index (about a tenth of a second for a million records); an item costs a look at one
    block.

    Args:
        selection: the documents.
        usable: block → usable images of each of its records.
        max_images: that a document keeps.
        piece_images: that a piece may have.
    """

    def __init__(
        self, selection: Selection, usable: Callable[[int], np.ndarray], max_images: int, piece_images: int
    ) -> None:
        self._selection, self._usable = selection, usable
        self._max_images, self._piece_images = max_images, piece_images
        counts = [int(self._pieces_of(block).sum()) for block in range(selection.blocks)]
        self._ends = np.cumsum(counts, dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, item: int) -> tuple[int, int]:
        block = int(np.searchsorted(self._ends, item, side="right"))
        within = item - (int(self._ends[block - 1]) if block else 0)
        ends = np.cumsum(self._pieces_of(block))
        document = int(np.searchsorted(ends, within, side="right"))
        return self._selection.before(block) + document, within - (int(ends[document - 1]) if document else 0)

    def _pieces_of(self, block: int) -> np.ndarray:
        """Pieces of each selected record of a block: what ``piece_count`` says, for many."""
        images = np.minimum(self._usable(block)[self._selection.mask(block)], self._max_images)
        return np.maximum(1, -(-2 * images // (self._piece_images + 1)))
