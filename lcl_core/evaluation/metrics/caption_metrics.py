"""Caption metrics of the COCO evaluation: BLEU-1 to BLEU-4, ROUGE-L, CIDEr-D and, where Java is present, METEOR.

BLEU: Papineni et al. 2002, closest reference length. ROUGE-L: Lin 2004. CIDEr, CIDEr-D: Vedantam et al. 2015, no
stemming. METEOR 1.5: Denkowski and Lavie 2014, the Java program of the package ``pycocoevalcap``.
"""

from __future__ import annotations

import importlib.util
import math
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from lcl_core.common.errors import UserError
from lcl_core.evaluation.metrics.core import BootstrapMetric, Ints, Numbers, Statistic, mean_of
from lcl_core.evaluation.metrics.ptb_tokenizer import tokenize_all
from lcl_core.evaluation.predictions import PredictionFile

NGram = tuple[str, ...]
MAX_NGRAM = 4


def ngrams(tokens: list[str]) -> Counter[NGram]:
    """How often each n-gram of 1 to 4 words occurs. Words are split at no-break spaces, as the reference does."""
    words = " ".join(tokens).split()
    return Counter(
        tuple(words[start : start + n]) for n in range(1, MAX_NGRAM + 1) for start in range(len(words) - n + 1)
    )


_Numbers = NDArray[np.float64]

# The reference's guards against a division by zero. A caption without any hit scores almost, not quite, zero.
_SMALL, _TINY = 1e-9, 1e-15


def bleu_counts(hypothesis: list[str], references: list[list[str]]) -> _Numbers:
    """[10] hits of 1- to 4-grams, n-grams made, words made, words of the closest reference (the shorter of two)."""
    made = ngrams(hypothesis)
    known = [ngrams(reference) for reference in references]
    hits, total = np.zeros(MAX_NGRAM), np.zeros(MAX_NGRAM)
    for gram, times in made.items():
        hits[len(gram) - 1] += min(times, max(counted[gram] for counted in known))
        total[len(gram) - 1] += times
    length = total[0]
    lengths = [sum(times for gram, times in counted.items() if len(gram) == 1) for counted in known]
    closest = min(lengths, key=lambda each: (abs(each - length), each))
    return np.concatenate([hits, total, [length, closest]])


def bleu_scores(summed: _Numbers) -> _Numbers:
    """[..., 4] BLEU-1 to BLEU-4 from ``counts`` [..., 10] that were added over captions."""
    hits, total = summed[..., :MAX_NGRAM], summed[..., MAX_NGRAM : 2 * MAX_NGRAM]
    length, closest = summed[..., -2:-1], summed[..., -1:]
    precision = np.cumprod((hits + _TINY) / (total + _SMALL), axis=-1) ** (1 / np.arange(1, MAX_NGRAM + 1))
    ratio = (length + _TINY) / (closest + _SMALL)
    return precision * np.exp(np.minimum(0.0, 1 - 1 / ratio))


CIDER_SIGMA = 6.0
_CIDER_SCALE = 10.0


@dataclass(frozen=True)
class _TfIdfVector:
    """Weights of the n-grams of one caption.

    Attributes:
        norm: [4] Euclidean norm of the weights of the 1- to 4-grams.
        length: number of 2-grams, which is what the reference takes for the length of a caption.
    """

    weight: dict[NGram, float]
    norm: list[float]
    length: int


def cider(
    hypotheses: list[list[str]], references: list[list[list[str]]], *, clipped: bool = True, sigma: float = CIDER_SIGMA
) -> _Numbers:
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
        made = _tfidf_vector(ngrams(hypothesis), frequency, pictures)
        alike = [_similarity(made, _tfidf_vector(one, frequency, pictures), clipped, sigma) for one in each]
        found.append(_CIDER_SCALE * sum(alike) / len(alike))
    return np.array(found, np.float64)


def _tfidf_vector(counted: Counter[NGram], frequency: Counter[NGram], pictures: float) -> _TfIdfVector:
    weight = {gram: times * (pictures - math.log(max(1, frequency[gram]))) for gram, times in counted.items()}
    square = [0.0] * MAX_NGRAM
    for gram, value in weight.items():
        square[len(gram) - 1] += value * value
    pairs = sum(times for gram, times in counted.items() if len(gram) == 2)
    return _TfIdfVector(weight, [math.sqrt(each) for each in square], pairs)


def _similarity(made: _TfIdfVector, known: _TfIdfVector, clipped: bool, sigma: float) -> float:
    """Mean over the four lengths of n-gram of the cosine."""
    product = [0.0] * MAX_NGRAM
    for gram, value in made.weight.items():
        rival = known.weight.get(gram, 0.0)
        product[len(gram) - 1] += (min(value, rival) if clipped else value) * rival
    cosines = [
        dot / (one * other) if one and other else dot
        for dot, one, other in zip(product, made.norm, known.norm, strict=True)
    ]
    penalty = math.exp(-((made.length - known.length) ** 2) / (2 * sigma**2)) if clipped else 1.0
    return penalty * sum(cosines) / MAX_NGRAM


# Recall weighs more than precision, as in the COCO evaluation.
ROUGE_BETA = 1.2


def rouge_l(hypothesis: list[str], references: list[list[str]]) -> float:
    """F-measure of the best precision and the best recall over the references."""
    made = hypothesis or [""]  # the reference counts an empty caption as one empty word
    common = [(longest_common(made, reference or [""]), len(reference) or 1) for reference in references]
    precision = max(length for length, _ in common) / len(made)
    recall = max(length / size for length, size in common)
    if precision == 0 or recall == 0:
        return 0.0
    return (1 + ROUGE_BETA**2) * precision * recall / (recall + ROUGE_BETA**2 * precision)


def longest_common(one: list[str], other: list[str]) -> int:
    """Length of the longest subsequence, gaps allowed, that two lists share."""
    row = [0] * (len(other) + 1)
    for word in one:
        corner = 0
        for place, rival in enumerate(other, start=1):
            above = row[place]
            row[place] = corner + 1 if word == rival else max(above, row[place - 1])
            corner = above
    return row[-1]


_METEOR_SEPARATOR = "|||"


@dataclass(frozen=True)
class MeteorProgram:
    """Where Java and METEOR's archive are."""

    java: str
    jar: Path


def find_meteor() -> MeteorProgram | str:
    """METEOR, or why it is not to be had, in a sentence for the user."""
    java = shutil.which("java")
    if java is None:
        return "METEOR is left out: there is no java on the path"
    spec = importlib.util.find_spec("pycocoevalcap")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        jar = Path(folder) / "meteor" / "meteor-1.5.jar"
        if jar.is_file():
            return MeteorProgram(java, jar)
    return "METEOR is left out: pip install pycocoevalcap, which brings meteor-1.5.jar"


def meteor(
    program: MeteorProgram, hypotheses: list[list[str]], references: list[list[list[str]]]
) -> tuple[float, NDArray[np.float64]]:
    """Score of the corpus, which is no mean, and [N] of each caption.

    Raises:
        UserError: ``meteor_failed``, when the program ends before it has answered.
    """
    # fmt: off
    command = [
        program.java, "-Dfile.encoding=UTF-8", "-Xmx2G", "-jar", str(program.jar),
        "-", "-", "-stdio", "-l", "en", "-norm",
    ]
    # fmt: on
    with subprocess.Popen(
        command, cwd=program.jar.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            return _run_meteor(process.stdin, process.stdout, hypotheses, references)
        except (BrokenPipeError, ValueError) as error:
            raise UserError(f"METEOR's Java program gave up ({error})", code="meteor_failed") from None
        finally:
            process.kill()
            with suppress(BrokenPipeError):  # what was not sent is lost on purpose
                process.stdin.close()


def _run_meteor(
    said: IO[bytes], heard: IO[bytes], hypotheses: list[list[str]], references: list[list[list[str]]]
) -> tuple[float, NDArray[np.float64]]:
    """One line a caption gives its statistics; one line with all statistics gives all scores, the corpus last."""

    def ask(line: str) -> None:
        said.write(f"{line}\n".encode())
        said.flush()

    def answer() -> str:
        line = heard.readline().decode().strip()
        if not line:
            raise ValueError("it ended without an answer")
        return line

    statistics = []
    for hypothesis, known in zip(hypotheses, references, strict=True):
        ask(
            f" {_METEOR_SEPARATOR} ".join(
                ["SCORE", *(_meteor_line(reference) for reference in known), _meteor_line(hypothesis)]
            )
        )
        statistics.append(answer())
    ask(f" {_METEOR_SEPARATOR} ".join(["EVAL", *statistics]))
    each = [float(answer()) for _ in statistics]
    return float(answer()), np.array(each, np.float64)


def _meteor_line(tokens: list[str]) -> str:
    return " ".join(tokens).replace(_METEOR_SEPARATOR, "").replace("  ", " ")


@dataclass(frozen=True)
class CaptionScores:
    """N pictures, in the order of ``pictures``.

    Attributes:
        values: of the corpus: ``BLEU-1`` … ``BLEU-4``, ``ROUGE-L``, ``CIDEr`` (the COCO evaluation's, that is
            CIDEr-D), ``CIDEr (first form)`` and, where Java is present, ``METEOR``.
        per_picture: [N] of each picture. The value of ROUGE-L and of both CIDErs is their mean; that of BLEU
            and METEOR is not.
        bleu_counts: [N, 10] of :func:`bleu_counts`; sums of drawn rows go to :func:`bleu_scores`.
        missing: pictures without a caption; they were scored with an empty one.
        left_out: metrics that could not be had, with the reason.
    """

    pictures: list[str]
    values: dict[str, float]
    per_picture: dict[str, _Numbers]
    bleu_counts: _Numbers
    missing: list[str]
    left_out: dict[str, str] = field(default_factory=dict)


def score_captions(
    hypotheses: Mapping[str, str], references: Mapping[str, Sequence[str]], *, with_meteor: bool = True
) -> CaptionScores:
    """Score one caption a picture against its references.

    Args:
        hypotheses: caption of each picture; captions of unknown pictures are ignored.
        references: one or more captions of each picture.

    Raises:
        UserError: ``no_references``, when there is none at all or a picture has none.
    """
    bare = [picture for picture, captions in references.items() if not captions]
    if not references or bare:
        raise UserError(f"no reference captions{f' for {bare[0]}' if bare else ''}", code="no_references")
    pictures = list(references)
    made = tokenize_all([hypotheses.get(picture, "") for picture in pictures])
    cut = iter(tokenize_all([caption for picture in pictures for caption in references[picture]]))
    known = [list(islice(cut, len(references[picture]))) for picture in pictures]
    counted = np.stack([bleu_counts(*each) for each in zip(made, known, strict=True)])
    per_picture = {
        "ROUGE-L": np.array([rouge_l(*each) for each in zip(made, known, strict=True)]),
        "CIDEr": cider(made, known),
        "CIDEr (first form)": cider(made, known, clipped=False),
    }
    values = {name: float(each.mean()) for name, each in per_picture.items()}
    for n, (corpus, each) in enumerate(zip(bleu_scores(counted.sum(axis=0)), bleu_scores(counted).T, strict=True)):
        values[f"BLEU-{n + 1}"], per_picture[f"BLEU-{n + 1}"] = float(corpus), each
    program = find_meteor() if with_meteor else "METEOR is left out: not asked for"
    left_out = {}
    if isinstance(program, MeteorProgram):
        values["METEOR"], per_picture["METEOR"] = meteor(program, made, known)
    else:
        left_out["METEOR"] = program
    missing = [picture for picture in pictures if picture not in hypotheses]
    return CaptionScores(pictures, values, per_picture, counted, missing, left_out)


Samples = Sequence[dict[str, Any]]

_MEAN_METRICS = ("CIDEr", "ROUGE-L")  # their value is the mean over pictures, unlike BLEU's and METEOR's


def caption_metrics(sheet: PredictionFile, samples: Samples) -> list[BootstrapMetric]:
    """The measures of one sheet."""
    references = {sample["query"]: sample["references"] for sample in samples}
    own = score_captions({sample["query"]: sample["caption"] for sample in samples}, references)
    chance = _baseline_scores(mismatched_captions(references, sheet.facts["seed"]), references)
    common = sheet.facts.get("common")
    majority = {} if common is None else _baseline_scores(dict.fromkeys(references, common), references)

    def measure(metric: str, values: NDArray, statistic: Statistic) -> BootstrapMetric:
        return BootstrapMetric(metric, own.pictures, values, statistic, chance.get(metric), majority.get(metric))

    found = [measure(name, own.per_picture[name], mean_of) for name in _MEAN_METRICS]
    found += [measure(f"BLEU-{n}", own.bleu_counts, _bleu_statistic(n)) for n in (4, 3, 2, 1)]
    return found + ([measure("METEOR", *_meteor_statistic(own))] if "METEOR" in own.values else [])


def mismatched_captions(references: dict[str, Sequence[str]], seed: int) -> dict[str, str]:
    """A caption of another picture for each picture; of its own where there is no other."""
    draw = np.random.default_rng(seed)
    pictures = list(references)
    circle = draw.permutation(len(pictures))
    found = {}
    for place, number in enumerate(circle):
        others = references[pictures[circle[(place + 1) % len(circle)]]]
        found[pictures[number]] = others[int(draw.integers(len(others)))]
    return found


def _baseline_scores(captions: dict[str, str], references: dict[str, Sequence[str]]) -> dict[str, float]:
    return score_captions(captions, references, with_meteor=False).values


def _bleu_statistic(n: int) -> Statistic:
    """BLEU-n of drawn pictures, from the sums of their counts."""

    def statistic(distinct: Numbers, counts: Ints) -> Numbers:
        return bleu_scores(counts @ distinct)[..., n - 1]

    return statistic


def _meteor_statistic(own: CaptionScores) -> tuple[NDArray, Statistic]:
    """METEOR is no mean over pictures, but near one: drawn means are moved so that all pictures give its value."""
    return own.per_picture["METEOR"] + (own.values["METEOR"] - own.per_picture["METEOR"].mean()), mean_of
