"""Counts of the n-grams of a caption."""

from __future__ import annotations

from collections import Counter

Gram = tuple[str, ...]
LONGEST = 4


def ngrams(tokens: list[str]) -> Counter[Gram]:
    """How often each n-gram of 1 to 4 words occurs. Words are split at no-break spaces, as the reference does."""
    words = " ".join(tokens).split()
    return Counter(
        tuple(words[start : start + n]) for n in range(1, LONGEST + 1) for start in range(len(words) - n + 1)
    )
