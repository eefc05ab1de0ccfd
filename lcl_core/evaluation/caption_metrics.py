"""Caption metrics of the COCO evaluation: BLEU-1 to BLEU-4, ROUGE-L and CIDEr-D.

BLEU: Papineni et al. 2002, closest reference length. ROUGE-L: Lin 2004. CIDEr, CIDEr-D: Vedantam et al. 2015, no
stemming. Captions are lists of words of the Penn Treebank tokenizer; N captions, each with one or more references.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcl_core.common.errors import UserError
from lcl_core.evaluation.metrics import BootstrapMetric, Ints, Numbers, Statistic, mean_of
from lcl_core.evaluation.treebank import tokenize_all

NGram = tuple[str, ...]
MAX_NGRAM = 4
CIDER_SIGMA = 6.0
ROUGE_BETA = 1.2  # recall weighs more than precision, as in the COCO evaluation

_CIDER_SCALE = 10.0
# The reference's guards against a division by zero. A caption without any hit scores almost, not quite, zero.
_SMALL, _TINY = 1e-9, 1e-15


def ngrams(tokens: list[str]) -> Counter[NGram]:
    """How often each n-gram of 1 to 4 words occurs. Words are split at no-break spaces, as the reference does."""
    words = " ".join(tokens).split()
    return Counter(
        tuple(words[start : start + n]) for n in range(1, MAX_NGRAM + 1) for start in range(len(words) - n + 1)
    )


def _count_of_length(counted: Counter[NGram], n: int) -> int:
    return sum(times for gram, times in counted.items() if len(gram) == n)


def bleu_counts(hypothesis: list[str], references: list[list[str]]) -> Numbers:
    """[10] hits of 1- to 4-grams, n-grams of the caption, its words, words of the closest reference.

    Of two equally close references the shorter counts. BLEU is no mean over captions: a bootstrap adds the counts of
    the captions that it draws.
    """
    own, known = ngrams(hypothesis), [ngrams(reference) for reference in references]
    hits, total = np.zeros(MAX_NGRAM), np.zeros(MAX_NGRAM)
    for gram, times in own.items():
        hits[len(gram) - 1] += min(times, max(counted[gram] for counted in known))
        total[len(gram) - 1] += times
    length = total[0]
    closest = min((_count_of_length(counted, 1) for counted in known), key=lambda each: (abs(each - length), each))
    return np.concatenate([hits, total, [length, closest]])


def bleu_scores(counts: Numbers) -> Numbers:
    """[..., 4] BLEU-1 to BLEU-4 from sums [..., 10] of :func:`bleu_counts` over captions."""
    hits, total = counts[..., :MAX_NGRAM], counts[..., MAX_NGRAM : 2 * MAX_NGRAM]
    length, closest = counts[..., -2:-1], counts[..., -1:]
    precision = np.cumprod((hits + _TINY) / (total + _SMALL), axis=-1) ** (1 / np.arange(1, MAX_NGRAM + 1))
    ratio = (length + _TINY) / (closest + _SMALL)
    return precision * np.exp(np.minimum(0.0, 1 - 1 / ratio))


@dataclass(frozen=True)
class _TfIdfVector:
    """Weights of the n-grams of one caption.

    Attributes:
        norm: [4] Euclidean norm of the weights of the 1- to 4-grams.
        length: number of 2-grams, which the reference uses as the length of a caption.
    """

    weight: dict[NGram, float]
    norm: list[float]
    length: int


def cider(hypotheses: list[list[str]], references: list[list[list[str]]]) -> Numbers:
    """[N] score of each caption; the score of the corpus is their mean.

    CIDEr-D, which the COCO evaluation prints as "CIDEr": hits are clipped and captions of another length are penalised.
    The document frequency of an n-gram is the number of images whose references use it.
    """
    counted = [[ngrams(reference) for reference in each] for each in references]
    frequency = Counter(gram for each in counted for gram in set().union(*each))
    log_images = math.log(len(references)) if references else 0.0
    scores = []
    for hypothesis, each in zip(hypotheses, counted, strict=True):
        own = _tfidf_vector(ngrams(hypothesis), frequency, log_images)
        alike = [_similarity(own, _tfidf_vector(one, frequency, log_images)) for one in each]
        scores.append(_CIDER_SCALE * sum(alike) / len(alike))
    return np.array(scores, np.float64)


def _tfidf_vector(counted: Counter[NGram], frequency: Counter[NGram], log_images: float) -> _TfIdfVector:
    weight = {gram: times * (log_images - math.log(max(1, frequency[gram]))) for gram, times in counted.items()}
    square = [0.0] * MAX_NGRAM
    for gram, value in weight.items():
        square[len(gram) - 1] += value * value
    return _TfIdfVector(weight, [math.sqrt(each) for each in square], _count_of_length(counted, 2))


def _similarity(own: _TfIdfVector, reference: _TfIdfVector) -> float:
    """Mean over the four n-gram lengths of the cosine."""
    product = [0.0] * MAX_NGRAM
    for gram, value in own.weight.items():
        other = reference.weight.get(gram, 0.0)
        product[len(gram) - 1] += min(value, other) * other
    cosines = [
        dot / (one * other) if one and other else dot
        for dot, one, other in zip(product, own.norm, reference.norm, strict=True)
    ]
    penalty = math.exp(-((own.length - reference.length) ** 2) / (2 * CIDER_SIGMA**2))
    return penalty * sum(cosines) / MAX_NGRAM


def rouge_l(hypothesis: list[str], references: list[list[str]]) -> float:
    """F-measure of the best precision and the best recall over the references."""
    own = hypothesis or [""]  # the reference program counts an empty caption as one empty word
    common = [(longest_common(own, reference or [""]), len(reference) or 1) for reference in references]
    precision = max(length for length, _ in common) / len(own)
    recall = max(length / size for length, size in common)
    if precision == 0 or recall == 0:
        return 0.0
    return (1 + ROUGE_BETA**2) * precision * recall / (recall + ROUGE_BETA**2 * precision)


def longest_common(one: list[str], other: list[str]) -> int:
    """Length of the longest subsequence, gaps allowed, that two lists share."""
    row = [0] * (len(other) + 1)
    for word in one:
        corner = 0
        for column, candidate in enumerate(other, start=1):
            above = row[column]
            row[column] = corner + 1 if word == candidate else max(above, row[column - 1])
            corner = above
    return row[-1]


@dataclass(frozen=True)
class CaptionScores:
    """Scores of N images.

    Attributes:
        images: [N] names.
        values: of the corpus: ``BLEU-1`` … ``BLEU-4``, ``ROUGE-L``, ``CIDEr`` (CIDEr-D).
        per_image: [N] of each image. The value of ROUGE-L and of CIDEr is their mean; BLEU's is not.
        bleu_counts: [N, 10] of :func:`bleu_counts`.
    """

    images: list[str]
    values: dict[str, float]
    per_image: dict[str, Numbers]
    bleu_counts: Numbers


def score_captions(hypotheses: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> CaptionScores:
    """Score one caption an image against its references.

    Args:
        hypotheses: caption of each image; captions of images without references are ignored.
    """
    bare = [image for image, captions in references.items() if not captions]
    if not references or bare:
        raise UserError(f"no reference captions{f' for {bare[0]}' if bare else ''}", code="no_data")
    images = list(references)
    own = tokenize_all([hypotheses.get(image, "") for image in images])
    tokenized = iter(tokenize_all([caption for image in images for caption in references[image]]))
    known = [list(islice(tokenized, len(references[image]))) for image in images]
    counts = np.stack([bleu_counts(*each) for each in zip(own, known, strict=True)])
    per_image = {
        "ROUGE-L": np.array([rouge_l(*each) for each in zip(own, known, strict=True)]),
        "CIDEr": cider(own, known),
    }
    values = {name: float(each.mean()) for name, each in per_image.items()}
    for n, (corpus, each) in enumerate(zip(bleu_scores(counts.sum(axis=0)), bleu_scores(counts).T, strict=True), 1):
        values[f"BLEU-{n}"], per_image[f"BLEU-{n}"] = float(corpus), each
    return CaptionScores(images, values, per_image, counts)


def caption_metrics(
    facts: Mapping[str, Any], samples: Sequence[Mapping[str, Any]], *, baselines: bool = True
) -> list[BootstrapMetric]:
    """Metrics of a prediction file of captions.

    Chance is a caption of another image. The majority is the most frequent caption of training for every image.

    Args:
        facts: ``seed`` and, where a model was trained, ``common``: the most frequent training caption.
        samples: ``query`` (the image), ``caption`` and ``references``.
        baselines: score chance and majority, too, each of which takes as long.
    """
    references = {sample["query"]: sample["references"] for sample in samples}
    own = score_captions({sample["query"]: sample["caption"] for sample in samples}, references)
    chance: dict[str, float] = {}
    majority: dict[str, float] = {}
    if baselines:
        chance = score_captions(mismatched_captions(references, facts["seed"]), references).values
        if facts.get("common") is not None:
            majority = score_captions(dict.fromkeys(references, facts["common"]), references).values

    def metric(name: str, values: NDArray, statistic: Statistic) -> BootstrapMetric:
        return BootstrapMetric(name, own.images, values, statistic, chance.get(name), majority.get(name))

    means = [metric(name, own.per_image[name], mean_of) for name in ("CIDEr", "ROUGE-L")]
    return means + [metric(f"BLEU-{n}", own.bleu_counts, _bleu_statistic(n)) for n in (4, 3, 2, 1)]


def mismatched_captions(references: Mapping[str, Sequence[str]], seed: int) -> dict[str, str]:
    """For each image a reference of the next image in a random circle of all images."""
    rng = np.random.default_rng(seed)
    images = list(references)
    circle = rng.permutation(len(images))
    captions = {}
    for position, row in enumerate(circle):
        others = references[images[circle[(position + 1) % len(circle)]]]
        captions[images[row]] = others[int(rng.integers(len(others)))]
    return captions


def _bleu_statistic(n: int) -> Statistic:
    """BLEU-n of drawn images, from the sums of their counts."""

    def statistic(distinct: Numbers, counts: Ints) -> Numbers:
        return bleu_scores(counts @ distinct)[..., n - 1]

    return statistic
