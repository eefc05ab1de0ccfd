"""Cutting documents into short pieces, anew each epoch: each holds one to a few images and the text around them.

How many pieces a document gives never changes, only where the cuts fall, so that every image is seen once an epoch
and positions stay arithmetic.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from lcl_core.data.interleave import Placement


def piece_count(images: int, piece_images: int) -> int:
    """Pieces of a document with that many usable images, such that a piece holds (1 + piece_images) / 2 on average."""
    return max(1, -(-2 * images // (piece_images + 1)))


def draw_sizes(draw: random.Random, images: int, piece_images: int) -> list[int]:
    """How many images each piece holds: each 1 to ``piece_images``, together ``images`` (one piece of 0 for none)."""
    pieces = piece_count(images, piece_images)
    if images == 0:
        return [0]
    sizes = [1] * pieces
    for extra in draw.sample(range(pieces * (piece_images - 1)), images - pieces):
        sizes[extra // (piece_images - 1)] += 1
    return sizes


def cut_piece(
    placements: Sequence[Placement], sizes: Sequence[int], piece: int, sentences: int
) -> tuple[list[Placement], range]:
    """The images of piece number ``piece`` and its sentences: from after the last piece's last image to its own.

    The last piece takes the document's tail too.
    """
    first = sum(sizes[:piece])
    own = list(placements[first : first + sizes[piece]])
    start = placements[first - 1].sentence + 1 if first else 0
    last = piece == len(sizes) - 1
    end = sentences if last else own[-1].sentence + 1
    return own, range(start, end)


def drop_lead_in(lengths: Sequence[int], lead_in: int, room: int) -> int:
    """How many of the first ``lead_in`` sentences to leave out so that the piece's images fit.

    Args:
        lengths: tokens up to and with the last image, a sentence each (with its image block).
        lead_in: sentences before the first image's.
        room: tokens there are.
    """
    excess, dropped = sum(lengths) - room, 0
    while excess > 0 and dropped < lead_in:
        excess -= lengths[dropped]
        dropped += 1
    return dropped


class Pieces(Protocol):
    """The pieces of all documents of a corpus, numbered through."""

    def __len__(self) -> int: ...

    def __getitem__(self, item: int, /) -> tuple[int, int]:
        """Document and piece."""


class PieceIndex:
    """Item number → (document, piece), over all documents of a source.

    Args:
        images: usable images of each document; a malformed one has none, which is one piece, which the stream will
            skip.
    """

    def __init__(self, images: Iterable[int], piece_images: int) -> None:
        counts = np.fromiter((piece_count(number, piece_images) for number in images), np.int64)
        self._ends = np.cumsum(counts)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, item: int) -> tuple[int, int]:
        document = int(np.searchsorted(self._ends, item, side="right"))
        return document, item - (int(self._ends[document - 1]) if document else 0)
