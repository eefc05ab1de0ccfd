"""Paragraphs into sentences, for any language that ends them with a mark."""

from __future__ import annotations

import re

# possessive, and only from the start of a run: linear on a line of a million dots
_END = re.compile(
    r"""(?<![.!?…])[.!?…]++["'”’»)\]]*+\s++(?=["'“‘«¿¡(\[]{0,4}[^\Wa-z_])|(?<![。！？])[。！？]++[」』）”’]*+"""
)
_ABBREVIATION = re.compile(
    r"[\s(\"'“‘\[](?:[A-Z]|[a-z]\.[a-z]|approx|ca|cf|ch|co|dr|ed|eds|eq|etc|fig|figs|inc|jr|ltd|mr|mrs|ms|no|nos|p|pp|"
    r"prof|sec|sr|st|vol|vs|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)\.\s+$",
    re.I,
)
_SHORTEST = 3  # words; less is a number or an initial more often than a sentence


def split_sentences(paragraph: str) -> list[str]:
    """In order, nothing lost but the whitespace between them. Short ones stay with what stands before."""
    found: list[str] = []
    start = 0
    for mark in _END.finditer(paragraph):
        before = paragraph[max(start, mark.end() - 12) : mark.end()]
        if _ABBREVIATION.search(before if mark.end() - 12 > start else f" {before}"):
            continue
        _append(found, paragraph[start : mark.end()].strip())
        start = mark.end()
    _append(found, paragraph[start:].strip())
    return found


def _append(found: list[str], sentence: str) -> None:
    if not sentence:
        return
    if found and sentence.isascii() and (_is_short(sentence) or _is_short(found[-1])):
        found[-1] = f"{found[-1]} {sentence}"
    else:
        found.append(sentence)


def _is_short(text: str) -> bool:
    return len(text.split(maxsplit=_SHORTEST)) < _SHORTEST
