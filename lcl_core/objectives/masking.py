"""Which words and patches are masked; drawn on the host."""

from __future__ import annotations

import math

import numpy as np

_SMALLEST = 16 / 196  # share of the patches that a block has at least, unless fewer are left to mask
_NARROWEST = 0.3  # aspect ratio of a block, or its inverse


def masked_places(draw: np.random.Generator, places: np.ndarray, ratio: float) -> np.ndarray:
    """A share of ``places``, ascending, without repetition; one at least where there is any."""
    count = min(len(places), max(1, round(ratio * len(places))))
    return np.sort(draw.permutation(places)[:count])


def masked_blocks(draw: np.random.Generator, side: int, ratio: float) -> np.ndarray:
    """Numbers of masked patches of a ``side`` x ``side`` grid, ascending: rectangles until the share is reached.

    Block-wise masking as in BEiT (arXiv 2106.08254, algorithm 1), but for the last block, of which only as many patches
    are taken as are due, so that every image has the same number. One patch at least is masked and, where there are
    two, one is left.
    """
    total = side * side
    count = max(1, min(round(ratio * total), total - 1))
    grid = np.zeros((side, side), bool)
    while (missing := count - int(grid.sum())) > 0:
        rows, columns = _block(draw, side, missing)
        block = np.zeros_like(grid)
        block[rows, columns] = True
        grid.reshape(-1)[np.flatnonzero(block & ~grid)[:missing]] = True
    return np.flatnonzero(grid)


def _block(draw: np.random.Generator, side: int, missing: int) -> tuple[slice, slice]:
    area = draw.uniform(min(_SMALLEST * side * side, missing), missing)
    aspect = math.exp(draw.uniform(math.log(_NARROWEST), -math.log(_NARROWEST)))
    height = min(side, max(1, round(math.sqrt(area * aspect))))
    width = min(side, max(1, round(math.sqrt(area / aspect))))
    top, left = int(draw.integers(side - height + 1)), int(draw.integers(side - width + 1))
    return slice(top, top + height), slice(left, left + width)
