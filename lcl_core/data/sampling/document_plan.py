"""A document's layout before its images are read: which images are chosen, and which chunk of it is used.

MMC4's rules choose the images of matched documents; sequences keep their order. A long document may be cut into
chunks of a few images and the text around them, anew each epoch. The number of chunks of a document never changes,
only the cuts move, so every image occurs once an epoch and stream positions stay arithmetic.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from lcl_core.common.errors import UserError
from lcl_core.data.records import Document, ImageSegment, Segment, TextSegment
from lcl_core.data.sampling.interleave import (
    Placement,
    choose_images,
    draw_image_sides,
    images_by_sentence,
    place_images,
)
from lcl_core.specs.pretrain import DataSpec


def chunk_count(images: int, piece_images: int) -> int:
    """Pieces of a document with that many usable images, such that a piece holds (1 + piece_images) / 2 on average."""
    return max(1, -(-2 * images // (piece_images + 1)))


def sample_images_per_chunk(draw: random.Random, images: int, piece_images: int) -> list[int]:
    """How many images each piece holds: each 1 to ``piece_images``, together ``images`` (one piece of 0 for none)."""
    pieces = chunk_count(images, piece_images)
    if images == 0:
        return [0]
    sizes = [1] * pieces
    for extra in draw.sample(range(pieces * (piece_images - 1)), images - pieces):
        sizes[extra // (piece_images - 1)] += 1
    return sizes


def chunk_placements(
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


def count_dropped_context(lengths: Sequence[int], lead_in: int, room: int) -> int:
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


class DocumentChunks(Protocol):
    """The pieces of all documents of a corpus, numbered through."""

    def __len__(self) -> int: ...

    def __getitem__(self, item: int, /) -> tuple[int, int]:
        """Document and piece."""


class ChunkIndex:
    """Item number → (document, piece), over all documents of a source.

    Args:
        images: usable images of each document; a malformed one has none, which is one piece, which the stream will
            skip.
    """

    def __init__(self, images: Iterable[int], piece_images: int) -> None:
        counts = np.fromiter((chunk_count(number, piece_images) for number in images), np.int64)
        self._ends = np.cumsum(counts)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, item: int) -> tuple[int, int]:
        document = int(np.searchsorted(self._ends, item, side="right"))
        return document, item - (int(self._ends[document - 1]) if document else 0)


class DocumentPlan(Protocol):
    """What is left to decide is which pictures can be read and on which side of their sentences they stand."""

    @property
    def images(self) -> Sequence[str]:
        """Names of the pictures to read."""

    def to_document(self, readable: Container[str], draw: random.Random, image_first: float) -> Document:
        """The document with the readable pictures. ``image_first``: chance to stand before the sentence."""


@dataclass(frozen=True, slots=True)
class DocumentChunk:
    """One piece of a document.

    Attributes:
        number: of the piece.
        most: images that a piece may hold.
        room: tokens that a piece may have between its first and last.
        tokens: length of a segment's tokens: of a text, or of an image where None is given.
    """

    number: int
    most: int
    room: int
    tokens: Callable[[str | None], int]


@dataclass(frozen=True, slots=True)
class MatchedPlan:
    """Sentences and the images assigned to them. ``start``: number of the first sentence."""

    sentences: Sequence[str]
    placements: Sequence[Placement]
    start: int = 0

    @property
    def images(self) -> list[str]:
        return [placement.name for placement in self.placements]

    def to_document(self, readable: Container[str], draw: random.Random, image_first: float) -> Document:
        placements = [placement for placement in self.placements if placement.name in readable]
        return place_images(
            self.sentences, placements, draw_image_sides(draw, image_first, len(placements)), self.start
        )


@dataclass(frozen=True, slots=True)
class SequencePlan:
    """Texts and images at their true places."""

    segments: tuple[Segment, ...]

    @property
    def images(self) -> list[str]:
        return list(Document("", self.segments).images)

    def to_document(self, readable: Container[str], draw: random.Random, image_first: float) -> Document:
        kept = (each for each in self.segments if isinstance(each, TextSegment) or each.name in readable)
        return Document("", tuple(kept))


def plan_document(
    document: dict[str, Any], data: DataSpec, draw: random.Random, cut: DocumentChunk | None = None
) -> DocumentPlan | None:
    """Choose the images of a document, or of one piece of it; None: too few are usable.

    ``draw`` is the document's own: the cuts and the pick among images of one sentence agree in all its pieces.

    Raises: UserError ``bad_document`` for malformed segments.
    """
    if "segments" in document:
        return _plan_sequence(parse_segments(document), data, draw, cut)
    placements = choose_images(document, data.similarity_threshold, data.max_images, draw)
    if len(placements) < max(1, data.min_images):
        return None
    sentences: list[str] = document["text_list"]
    if cut is None:
        return MatchedPlan(sentences, placements)
    sizes = sample_images_per_chunk(draw, len(placements), cut.most)
    if cut.number >= len(sizes):  # an index of shards rounds similarities up: it may count an image too many
        return None
    own, span = chunk_placements(placements, sizes, cut.number, len(sentences))
    placed = {placement.sentence for placement in own}
    lengths = [
        cut.tokens(sentences[number]) + (cut.tokens(None) if number in placed else 0)
        for number in range(span.start, own[-1].sentence + 1)
    ]
    start = span.start + count_dropped_context(lengths, own[0].sentence - span.start, cut.room)
    return MatchedPlan(sentences[start : span.stop], own, start)


def count_usable_images(document: dict[str, Any], data: DataSpec) -> int:
    """How many images ``draft`` would choose from, at most ``data.max_images``.

    Raises: UserError ``bad_document``.
    """
    if "segments" in document:
        found = sum(isinstance(segment, ImageSegment) for segment in parse_segments(document))
    else:
        found = len(images_by_sentence(document, data.similarity_threshold))
    return min(found, data.max_images)


def parse_segments(document: dict[str, Any]) -> tuple[Segment, ...]:
    """``[{"text": …} | {"image": …}, …]``. Raises: UserError ``bad_document``."""
    segments: list[Segment] = []
    entries = document["segments"]
    for entry in entries if isinstance(entries, list) else [None]:
        value = entry if isinstance(entry, dict) else {}
        if isinstance(value.get("text"), str):
            segments.append(TextSegment(value["text"]))
        elif isinstance(value.get("image"), str):
            segments.append(ImageSegment(value["image"]))
        else:
            message = "segments must be a list of {text} and {image} objects"
            raise UserError(message, code="bad_document")
    return tuple(segments)


def _plan_sequence(
    segments: tuple[Segment, ...], data: DataSpec, draw: random.Random, cut: DocumentChunk | None
) -> SequencePlan | None:
    kept: list[Segment] = []
    images = 0
    for segment in segments:
        if isinstance(segment, ImageSegment):
            images += 1
            if images > data.max_images:
                continue
        kept.append(segment)
    images = min(images, data.max_images)
    if images < max(1, data.min_images):
        return None
    return SequencePlan(
        tuple(kept if cut is None else _chunk_segments(kept, sample_images_per_chunk(draw, images, cut.most), cut))
    )


def _chunk_segments(segments: list[Segment], sizes: Sequence[int], cut: DocumentChunk) -> list[Segment]:
    """From after the last piece's last image to its own; the last piece has the tail too."""
    places = [place for place, segment in enumerate(segments) if isinstance(segment, ImageSegment)]
    first = sum(sizes[: cut.number])
    own = places[first : first + sizes[cut.number]]
    start = places[first - 1] + 1 if first else 0
    end = len(segments) if cut.number == len(sizes) - 1 else own[-1] + 1
    before = segments[start : own[-1] + 1]
    lengths = [cut.tokens(segment.text if isinstance(segment, TextSegment) else None) for segment in before]
    return segments[start + count_dropped_context(lengths, own[0] - start, cut.room) : end]
