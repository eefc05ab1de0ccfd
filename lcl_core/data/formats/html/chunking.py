"""Paragraphs into sentences, and long pages into documents, cut at headings where possible.

Sentences are found in any language that ends them with a mark.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from lcl_core.data.records import ImageSegment, Segment, TextSegment

# possessive, and only from the start of a run: linear on a line of a million dots
_SENTENCE_END = re.compile(
    r"""(?<![.!?…])[.!?…]++["'”’»)\]]*+\s++(?=["'“‘«¿¡(\[]{0,4}[^\Wa-z_])|(?<![。！？])[。！？]++[」』）”’]*+"""
)
_ABBREVIATION = re.compile(
    r"[\s(\"'“‘\[](?:[A-Z]|[a-z]\.[a-z]|approx|ca|cf|ch|co|dr|ed|eds|eq|etc|fig|figs|inc|jr|ltd|mr|mrs|ms|no|nos|p|pp|"
    r"prof|sec|sr|st|vol|vs|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)\.\s+$",
    re.I,
)
_MIN_WORDS = 3  # words; less is a number or an initial more often than a sentence


def split_sentences(paragraph: str) -> list[str]:
    """In order, without the whitespace between them. Short ones are joined to the sentence before."""
    sentences: list[str] = []
    start = 0
    for mark in _SENTENCE_END.finditer(paragraph):
        before = paragraph[max(start, mark.end() - 12) : mark.end()]
        if _ABBREVIATION.search(before if mark.end() - 12 > start else f" {before}"):
            continue
        _append(sentences, paragraph[start : mark.end()].strip())
        start = mark.end()
    _append(sentences, paragraph[start:].strip())
    return sentences


def _append(sentences: list[str], sentence: str) -> None:
    if not sentence:
        return
    if sentences and sentence.isascii() and (_is_short(sentence) or _is_short(sentences[-1])):
        sentences[-1] = f"{sentences[-1]} {sentence}"
    else:
        sentences.append(sentence)


def _is_short(text: str) -> bool:
    return len(text.split(maxsplit=_MIN_WORDS)) < _MIN_WORDS


_WORD_CHARACTERS = 12  # characters; writing without spaces counts a word each so many


@dataclass(frozen=True, slots=True)
class ChunkUnit:
    """Segments that stay together: a sentence, or an image with its captions."""

    segments: tuple[Segment, ...]
    heading: bool = False

    @property
    def words(self) -> int:
        return sum(count_words(each.text) for each in self.segments if isinstance(each, TextSegment))

    @property
    def images(self) -> int:
        return sum(isinstance(each, ImageSegment) for each in self.segments)


def count_words(text: str) -> int:
    return max(text.count(" ") + 1, len(text) // _WORD_CHARACTERS)


def text_units(text: str, heading: bool, max_words: int) -> list[ChunkUnit]:
    """One unit, or several where the text is longer than a document may be."""
    parts = [text] if count_words(text) <= max_words else _split_words(text, max_words)
    return [ChunkUnit((TextSegment(part),), heading) for part in parts]


def image_units(name: str, texts: list[str], max_words: int) -> list[ChunkUnit]:
    """The image with its texts; texts too long to stay with it follow on their own."""
    if sum(map(count_words, texts)) <= max_words:
        return [ChunkUnit((ImageSegment(name), *map(TextSegment, texts)))]
    rest = [unit for text in texts for unit in text_units(text, False, max_words)]
    return [ChunkUnit((ImageSegment(name),)), *rest]


def chunk_units(units: list[ChunkUnit], max_images: int, max_words: int) -> Iterator[list[ChunkUnit]]:
    """Pieces in order that hold all units, each within both bounds.

    A chunk ends before a heading if that leaves it at least half full, else where the bound is met.
    """
    chunk: list[ChunkUnit] = []
    images = words = 0
    for unit in units:
        while chunk and (images + unit.images > max_images or words + unit.words > max_words):
            at = _boundary(chunk, max_images, max_words)
            yield chunk[:at]
            chunk = chunk[at:]
            images, words = _totals(chunk)
        chunk.append(unit)
        images += unit.images
        words += unit.words
    if chunk:
        yield chunk


def _totals(chunk: list[ChunkUnit]) -> tuple[int, int]:
    return sum(unit.images for unit in chunk), sum(unit.words for unit in chunk)


def _boundary(chunk: list[ChunkUnit], max_images: int, max_words: int) -> int:
    """Where to end the first document; the units from there on begin the next."""
    # of several headings in a row the first is where the section starts
    starts = [at for at in range(1, len(chunk)) if chunk[at].heading and not chunk[at - 1].heading]
    if starts:
        images, words = _totals(chunk[: starts[-1]])
        if 2 * images >= max_images or 2 * words >= max_words:
            return starts[-1]
        if starts[-1] + sum(unit.heading for unit in chunk[starts[-1] :]) == len(chunk):
            return starts[-1]  # a heading without its section would be left at the end
    return len(chunk)


def _split_words(text: str, max_words: int) -> Iterator[str]:
    """Runs of whole words, none longer than ``max_words``; what has no spaces is cut anywhere."""
    longest = max_words * _WORD_CHARACTERS
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
