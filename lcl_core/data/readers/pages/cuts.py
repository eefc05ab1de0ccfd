"""Long pages cut into documents, at headings where that is possible."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lcl_core.data.document import ImageSegment, Segment, TextSegment

_LONGEST_WORD = 12  # characters; writing without spaces counts a word each so many


@dataclass(frozen=True, slots=True)
class Unit:
    """Segments that stay together: a sentence, or an image with its captions."""

    segments: tuple[Segment, ...]
    words: int
    images: int = 0
    heading: bool = False


def count_words(text: str) -> int:
    return max(text.count(" ") + 1, len(text) // _LONGEST_WORD)


def text_units(text: str, heading: bool, max_words: int) -> list[Unit]:
    """One unit, or several where the text is longer than a document may be."""
    parts = [text] if count_words(text) <= max_words else _chunks(text, max_words)
    return [Unit((TextSegment(part),), count_words(part), 0, heading) for part in parts]


def picture_unit(name: str, texts: list[str], max_words: int) -> list[Unit]:
    """The image with its texts; texts too long to stay with it follow on their own."""
    words = sum(map(count_words, texts))
    if words <= max_words:
        return [Unit((ImageSegment(name), *map(TextSegment, texts)), words, 1)]
    rest = [unit for text in texts for unit in text_units(text, False, max_words)]
    return [Unit((ImageSegment(name),), 0, 1), *rest]


def cut(units: list[Unit], max_images: int, max_words: int) -> Iterator[list[Unit]]:
    """Pieces in order that hold all units, each within both bounds.

    A piece ends before a heading if that leaves it at least half full, else where the bound is met.
    """
    piece: list[Unit] = []
    images = words = 0
    for unit in units:
        while piece and (images + unit.images > max_images or words + unit.words > max_words):
            at = _boundary(piece, max_images, max_words)
            yield piece[:at]
            piece = piece[at:]
            images, words = _totals(piece)
        piece.append(unit)
        images += unit.images
        words += unit.words
    if piece:
        yield piece


def _totals(piece: list[Unit]) -> tuple[int, int]:
    return sum(unit.images for unit in piece), sum(unit.words for unit in piece)


def _boundary(piece: list[Unit], max_images: int, max_words: int) -> int:
    """Where to end the first document; the units from there on begin the next."""
    # of several headings in a row the first is where the section starts
    starts = [at for at in range(1, len(piece)) if piece[at].heading and not piece[at - 1].heading]
    if starts:
        images, words = _totals(piece[: starts[-1]])
        if 2 * images >= max_images or 2 * words >= max_words:
            return starts[-1]
        if starts[-1] + sum(unit.heading for unit in piece[starts[-1] :]) == len(piece):
            return starts[-1]  # a heading without its section would be left at the end
    return len(piece)


def _chunks(text: str, max_words: int) -> Iterator[str]:
    """Runs of whole words, none longer than ``max_words``; what has no spaces is cut anywhere."""
    longest = max_words * _LONGEST_WORD
    run: list[str] = []
    length = 0
    for word in text.split():
        for start in range(0, len(word), longest):
            part = word[start : start + longest]
            if run and (len(run) == max_words or length + len(part) > longest):
                yield " ".join(run)
                run, length = [], 0
            run.append(part)
            length += len(part) + 1
    if run:
        yield " ".join(run)
