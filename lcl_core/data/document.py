"""The one in-memory document: texts and images in reading order. Every reader makes it, every layout starts from it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TextSegment:
    """One stretch of text as written, usually a sentence."""

    text: str


@dataclass(frozen=True, slots=True)
class ImageSegment:
    """One picture, by its name under the corpus's ``images/``."""

    name: str


Segment = TextSegment | ImageSegment


@dataclass(frozen=True, slots=True)
class Document:
    """Texts and images in the order in which a reader meets them."""

    id: str
    segments: tuple[Segment, ...]

    @property
    def images(self) -> tuple[str, ...]:
        """Names of the pictures in reading order."""
        return tuple(segment.name for segment in self.segments if isinstance(segment, ImageSegment))

    @property
    def text(self) -> str:
        """The texts alone, joined by single spaces."""
        return " ".join(segment.text for segment in self.segments if isinstance(segment, TextSegment))
