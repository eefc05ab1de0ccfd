"""BLEU (Papineni et al. 2002), with several references and the closest reference length.

A caption's counts are kept apart from the score, since BLEU is no mean over captions: a bootstrap adds the
counts of the captions it draws.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lcl_core.transfer.language.ngrams import LONGEST, ngrams

Numbers = NDArray[np.float64]

# The reference's guards against a division by zero. A caption without any hit scores almost, not quite, zero.
_SMALL, _TINY = 1e-9, 1e-15


def counts(hypothesis: list[str], references: list[list[str]]) -> Numbers:
    """[10] hits of 1- to 4-grams, n-grams made, words made, words of the closest reference (the shorter of two)."""
    made = ngrams(hypothesis)
    known = [ngrams(reference) for reference in references]
    hits, total = np.zeros(LONGEST), np.zeros(LONGEST)
    for gram, times in made.items():
        hits[len(gram) - 1] += min(times, max(counted[gram] for counted in known))
        total[len(gram) - 1] += times
    length = total[0]
    lengths = [sum(times for gram, times in counted.items() if len(gram) == 1) for counted in known]
    closest = min(lengths, key=lambda each: (abs(each - length), each))
    return np.concatenate([hits, total, [length, closest]])


def scores(summed: Numbers) -> Numbers:
    """[..., 4] BLEU-1 to BLEU-4 from ``counts`` [..., 10] that were added over captions."""
    hits, total = summed[..., :LONGEST], summed[..., LONGEST : 2 * LONGEST]
    length, closest = summed[..., -2:-1], summed[..., -1:]
    precision = np.cumprod((hits + _TINY) / (total + _SMALL), axis=-1) ** (1 / np.arange(1, LONGEST + 1))
    ratio = (length + _TINY) / (closest + _SMALL)
    return precision * np.exp(np.minimum(0.0, 1 - 1 / ratio))
