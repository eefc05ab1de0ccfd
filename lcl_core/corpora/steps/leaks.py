"""Held-out pictures that repeat a training picture: some artists copy each other, some flags are drawn alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lcl_core.corpora.steps.rows import Pair

SIDE = 24  # pixels of the small copies that are compared
LIMIT = 6.0  # root mean square difference of levels below which two are the same picture
_AT_ONCE = 256


def without_leaks(pairs: Sequence[Pair], images: Path) -> list[Pair]:
    """``pairs`` without those of val and test whose picture is equal or nearly equal to one of train.

    Args:
        images: folder that the pictures' names are relative to.
    """
    train = [number for number, pair in enumerate(pairs) if pair.split == "train"]
    held_out = [number for number, pair in enumerate(pairs) if pair.split != "train"]
    if not train or not held_out:
        return list(pairs)
    small = np.stack([_small(images / pair.image) for pair in pairs])
    known = small[train]
    lengths = (known**2).sum(1)
    leaked: set[int] = set()
    for start in range(0, len(held_out), _AT_ONCE):
        numbers = held_out[start : start + _AT_ONCE]
        asked = small[numbers]
        squares = (asked**2).sum(1)[:, None] + lengths - 2 * asked @ known.T
        nearest = squares.min(1) / asked.shape[1]
        leaked.update(number for number, square in zip(numbers, nearest, strict=True) if square < LIMIT**2)
    return [pair for number, pair in enumerate(pairs) if number not in leaked]


def _small(path: Path) -> np.ndarray:
    """f32 [SIDE * SIDE * 3]."""
    with Image.open(path) as image:
        small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32).ravel()
