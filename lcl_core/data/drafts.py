"""A document as it will be laid out, but for its pictures: which of them can be read is only known afterwards.

Matched documents are laid out by MMC4's rules; sequences stand as they are. Both may be cut into pieces.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lcl_core.data.document import Document, ImageSegment, Segment, TextSegment
from lcl_core.data.interleave import Placement, choose_images, coins, images_by_sentence, lay_out
from lcl_core.data.pieces import cut_piece, draw_sizes, drop_lead_in
from lcl_core.errors import UserError
from lcl_core.specs import DataSpec


class Draft(Protocol):
    """What is left to decide is which pictures can be read and on which side of their sentences they stand."""

    @property
    def images(self) -> Sequence[str]:
        """Names of the pictures to read."""

    def lay_out(self, readable: Container[str], draw: random.Random, image_first: float) -> Document:
        """The document with the readable pictures. ``image_first``: chance to stand before the sentence."""


@dataclass(frozen=True, slots=True)
class Cut:
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
class MatchedDraft:
    """Sentences and the images assigned to them. ``start``: number of the first sentence."""

    sentences: Sequence[str]
    placements: Sequence[Placement]
    start: int = 0

    @property
    def images(self) -> list[str]:
        return [placement.name for placement in self.placements]

    def lay_out(self, readable: Container[str], draw: random.Random, image_first: float) -> Document:
        placements = [placement for placement in self.placements if placement.name in readable]
        return lay_out(self.sentences, placements, coins(draw, image_first, len(placements)), self.start)


@dataclass(frozen=True, slots=True)
class SequenceDraft:
    """Texts and images at their true places."""

    segments: tuple[Segment, ...]

    @property
    def images(self) -> list[str]:
        return list(Document("", self.segments).images)

    def lay_out(self, readable: Container[str], draw: random.Random, image_first: float) -> Document:
        kept = (each for each in self.segments if isinstance(each, TextSegment) or each.name in readable)
        return Document("", tuple(kept))


def draft(document: dict[str, Any], data: DataSpec, draw: random.Random, cut: Cut | None = None) -> Draft | None:
    """Choose the images of a document, or of one piece of it; None: too few are usable.

    ``draw`` is the document's own: the cuts and the pick among images of one sentence agree in all its pieces.

    Raises: UserError ``bad_document`` for malformed segments.
    """
    if "segments" in document:
        return _sequence(segments_of(document), data, draw, cut)
    placements = choose_images(document, data.similarity_threshold, data.max_images, draw)
    if len(placements) < max(1, data.min_images):
        return None
    sentences: list[str] = document["text_list"]
    if cut is None:
        return MatchedDraft(sentences, placements)
    sizes = draw_sizes(draw, len(placements), cut.most)
    if cut.number >= len(sizes):  # an index of shards rounds similarities up: it may count an image too many
        return None
    own, span = cut_piece(placements, sizes, cut.number, len(sentences))
    placed = {placement.sentence for placement in own}
    lengths = [
        cut.tokens(sentences[number]) + (cut.tokens(None) if number in placed else 0)
        for number in range(span.start, own[-1].sentence + 1)
    ]
    start = span.start + drop_lead_in(lengths, own[0].sentence - span.start, cut.room)
    return MatchedDraft(sentences[start : span.stop], own, start)


def usable_images(document: dict[str, Any], data: DataSpec) -> int:
    """How many images ``draft`` would choose from, at most ``data.max_images``.

    Raises: UserError ``bad_document``.
    """
    if "segments" in document:
        found = sum(isinstance(segment, ImageSegment) for segment in segments_of(document))
    else:
        found = len(images_by_sentence(document, data.similarity_threshold))
    return min(found, data.max_images)


def segments_of(document: dict[str, Any]) -> tuple[Segment, ...]:
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


def _sequence(
    segments: tuple[Segment, ...], data: DataSpec, draw: random.Random, cut: Cut | None
) -> SequenceDraft | None:
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
    return SequenceDraft(tuple(kept if cut is None else _piece(kept, draw_sizes(draw, images, cut.most), cut)))


def _piece(segments: list[Segment], sizes: Sequence[int], cut: Cut) -> list[Segment]:
    """From after the last piece's last image to its own; the last piece has the tail too."""
    places = [place for place, segment in enumerate(segments) if isinstance(segment, ImageSegment)]
    first = sum(sizes[: cut.number])
    own = places[first : first + sizes[cut.number]]
    start = places[first - 1] + 1 if first else 0
    end = len(segments) if cut.number == len(sizes) - 1 else own[-1] + 1
    before = segments[start : own[-1] + 1]
    lengths = [cut.tokens(segment.text if isinstance(segment, TextSegment) else None) for segment in before]
    return segments[start + drop_lead_in(lengths, own[0] - start, cut.room) : end]
