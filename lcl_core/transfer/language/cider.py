"""CIDEr and CIDEr-D (Vedantam et al. 2015): how alike the n-grams of a caption and its references are, rare ones
counting more.

What the COCO evaluation prints as "CIDEr" is CIDEr-D: hits are clipped and captions of another length pay.
No stemming, as there.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lcl_core.transfer.language.ngrams import LONGEST, Gram, ngrams

Numbers = NDArray[np.float64]

SIGMA = 6.0
_SCALE = 10.0


@dataclass(frozen=True)
class _Vector:
    """Weights of the n-grams of one caption.

    Attributes:
        norm: [4] Euclidean norm of the weights of the 1- to 4-grams.
        length: number of 2-grams, which is what the reference takes for the length of a caption.
    """

    weight: dict[Gram, float]
    norm: list[float]
    length: int


def cider(
    hypotheses: list[list[str]], references: list[list[list[str]]], *, clipped: bool = True, sigma: float = SIGMA
) -> Numbers:
    """[N] score of each caption; the score of the corpus is their mean.

    Document frequencies come from the references: an n-gram's is the number of pictures that use it.

    Args:
        hypotheses: N captions, as words.
        references: for each its references, one or more.
        clipped: CIDEr-D; otherwise CIDEr as first defined, without clipping and length penalty.
    """
    counted = [[ngrams(reference) for reference in each] for each in references]
    frequency = Counter(gram for each in counted for gram in set().union(*each))
    pictures = math.log(len(references)) if references else 0.0
    found = []
    for hypothesis, each in zip(hypotheses, counted, strict=True):
        made = _vector(ngrams(hypothesis), frequency, pictures)
        alike = [_similarity(made, _vector(one, frequency, pictures), clipped, sigma) for one in each]
        found.append(_SCALE * sum(alike) / len(alike))
    return np.array(found, np.float64)


def _vector(counted: Counter[Gram], frequency: Counter[Gram], pictures: float) -> _Vector:
    weight = {gram: times * (pictures - math.log(max(1, frequency[gram]))) for gram, times in counted.items()}
    square = [0.0] * LONGEST
    for gram, value in weight.items():
        square[len(gram) - 1] += value * value
    pairs = sum(times for gram, times in counted.items() if len(gram) == 2)
    return _Vector(weight, [math.sqrt(each) for each in square], pairs)


def _similarity(made: _Vector, known: _Vector, clipped: bool, sigma: float) -> float:
    """Mean over the four lengths of n-gram of the cosine."""
    product = [0.0] * LONGEST
    for gram, value in made.weight.items():
        rival = known.weight.get(gram, 0.0)
        product[len(gram) - 1] += (min(value, rival) if clipped else value) * rival
    cosines = [
        dot / (one * other) if one and other else dot
        for dot, one, other in zip(product, made.norm, known.norm, strict=True)
    ]
    penalty = math.exp(-((made.length - known.length) ** 2) / (2 * sigma**2)) if clipped else 1.0
    return penalty * sum(cosines) / LONGEST
