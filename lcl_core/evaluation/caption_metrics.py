"""Caption metrics of the COCO evaluation: BLEU-1 to BLEU-4, ROUGE-L and CIDEr-D, and its Penn Treebank tokenizer.

BLEU: Papineni et al. 2002, closest reference length. ROUGE-L: Lin 2004. CIDEr, CIDEr-D: Vedantam et al. 2015, no
stemming. N captions, each with one or more references. They compare with published figures only when captions are
tokenized as by Stanford's PTBTokenizer: lower case, without punctuation. The rules here cover the English of captions;
web addresses, emoticons and markup are split as other text.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, pairwise
from typing import Any, NamedTuple

import numpy as np
import regex
from numpy.typing import NDArray

from lcl_core.common.errors import UserError
from lcl_core.evaluation.metrics import BootstrapMetric, Numbers, Statistic, mean_of

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


def cider(hypotheses: list[list[str]], references: list[list[list[str]]]) -> Numbers:
    """[N] score of each caption; the score of the corpus is their mean.

    CIDEr-D, which the COCO evaluation prints as "CIDEr": hits are clipped and captions of another length are penalised.
    The document frequency of an n-gram is the number of images whose references use it.
    """
    counted = [[ngrams(reference) for reference in each] for each in references]
    frequency = Counter(gram for each in counted for gram in set().union(*each))
    log_images = math.log(len(references)) if references else 0.0

    def weighted(grams: Counter[NGram]) -> dict[NGram, float]:
        return {gram: times * (log_images - math.log(max(1, frequency[gram]))) for gram, times in grams.items()}

    scores = []
    for hypothesis, each in zip(hypotheses, counted, strict=True):
        own = ngrams(hypothesis)
        weights, bigrams = weighted(own), _count_of_length(own, 2)  # the reference's length of a caption
        alike = 0.0
        for reference in each:
            penalty = math.exp(-((bigrams - _count_of_length(reference, 2)) ** 2) / (2 * CIDER_SIGMA**2))
            alike += penalty * _mean_cosine(weights, weighted(reference))
        scores.append(_CIDER_SCALE * alike / len(each))
    return np.array(scores, np.float64)


def _mean_cosine(own: dict[NGram, float], reference: dict[NGram, float]) -> float:
    """Mean over the four n-gram lengths of the cosine, with clipped hits."""
    product, own_square, square = np.zeros(MAX_NGRAM), np.zeros(MAX_NGRAM), np.zeros(MAX_NGRAM)
    for gram, value in own.items():
        other = reference.get(gram, 0.0)
        product[len(gram) - 1] += min(value, other) * other
        own_square[len(gram) - 1] += value * value
    for gram, value in reference.items():
        square[len(gram) - 1] += value * value
    norm = np.sqrt(own_square * square)
    return float(np.where(norm > 0, product / np.where(norm > 0, norm, 1), 0.0).mean())


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


class CaptionScores(NamedTuple):
    """Scores of N images.

    Attributes:
        values: of the corpus: ``BLEU-1`` … ``BLEU-4``, ``ROUGE-L``, ``CIDEr`` (CIDEr-D).
        per_image: [N] of each image. The value of ROUGE-L and of CIDEr is their mean; BLEU's is not.
        bleu_counts: [N, 10] of :func:`bleu_counts`.
    """

    values: dict[str, float]
    per_image: dict[str, Numbers]
    bleu_counts: Numbers


def score_captions(hypotheses: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> CaptionScores:
    """Score one caption an image against its references, in their order.

    ``hypotheses``: caption of each image; captions of images without references are ignored.
    """
    bare = [image for image, captions in references.items() if not captions]
    if not references or bare:
        raise UserError(f"no reference captions{f' for {bare[0]}' if bare else ''}", code="no_data")
    own = tokenize_all([hypotheses.get(image, "") for image in references])
    tokenized = iter(tokenize_all([caption for captions in references.values() for caption in captions]))
    known = [list(islice(tokenized, len(captions))) for captions in references.values()]
    counts = np.stack([bleu_counts(*each) for each in zip(own, known, strict=True)])
    per_image = {
        "ROUGE-L": np.array([rouge_l(*each) for each in zip(own, known, strict=True)]),
        "CIDEr": cider(own, known),
    }
    values = {name: float(each.mean()) for name, each in per_image.items()}
    for n, (corpus, each) in enumerate(zip(bleu_scores(counts.sum(axis=0)), bleu_scores(counts).T, strict=True), 1):
        values[f"BLEU-{n}"], per_image[f"BLEU-{n}"] = float(corpus), each
    return CaptionScores(values, per_image, counts)


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
        return BootstrapMetric(name, list(references), values, statistic, chance.get(name), majority.get(name))

    def bleu(n: int) -> Statistic:  # of drawn images, from the sums of their counts
        return lambda distinct, counts: bleu_scores(counts @ distinct)[..., n - 1]

    means = [metric(name, own.per_image[name], mean_of) for name in ("CIDEr", "ROUGE-L")]
    return means + [metric(f"BLEU-{n}", own.bleu_counts, bleu(n)) for n in (4, 3, 2, 1)]


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


# ---- words

# Before anything: "Mr. Smith", "Jan. 5", "Acme Inc. said".
_ABBREVIATIONS = r"""
    adj adm adv al ala apr ariz assn assoc asst atty attys aug ave bhd bldg blvd brig bros calif capt cf cie cmdr co
    col colo comdr conn corp cos cpl ct dak dec dept det dr drs ens esq est etc ext feb fla fri ft ga gen gov govs hon
    inc ind insp intl invt jan jos jr jul jun kan kans ky lt ltd maj mar md messrs mfg mich minn mlle mme mo mon mont
    mr mrs ms msgr mt mtg natl neb nev nov oct okla penn pfc ph plc pres prof profs pte pty pvt rd rep reps rev rt sen
    sens sep sept seq sfc sgt spc sq sr st ste supt supts sys tel tenn thu thurs treas tue tues univ va vs vt wed wis
    wisc wm wyo
"""
# Only with a capital: in lower case these are words that may end a sentence.
_CAPITALISED = "Ark Az Del Ill La Mass Miss Ore Pa Tex Wash ARK AZ DEL ILL LA MASS MISS ORE PA TEX"
# Only before a number: "Fig. 3", "no. 7".
_BEFORE_NUMBER = "art ca fig figs no nos op pp prop"
# A single letter and its full stop part where one of these opens the next sentence: "Vitamin C. The".
_SENTENCE_OPENERS = """
    A About According Additionally After An As At But Earlier He Her Here However If In It Last Many More Now Once
    One Other Our She Since So Some Such That The Their Then There These They This We What When While Yet You
"""

_BRACKETS = {"(": "-LRB-", ")": "-RRB-", "[": "-LSB-", "]": "-RSB-", "{": "-LCB-", "}": "-RCB-"}
_MONEY = {"€": "$", "£": "#", "¢": "cents"}
_FRACTIONS = {"¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"}
_QUOTES = str.maketrans({"‘": "`", "‛": "`", "‹": "`", "’": "'", "›": "'", "“": "``", "«": "``", "”": "''", "»": "''"})


def _straight_apostrophe(token: str) -> str:
    return token.replace("’", "'")


def _alternatives(words: str) -> str:
    return "(?:" + "|".join(words.split()) + ")"


_L, _A = r"[\p{L}\p{M}]", r"[\p{L}\p{M}\p{Nd}]"
_WORD = rf"{_L}{_A}*"
_APOS = "['’]"
_NUMBER = r"(?:[0-9]*(?:[.:,][0-9]+)+|[0-9]+)"
_AUXILIARY = rf"{_APOS}(?i:[msd]|re|ve|ll)"
# Irish, French, Arabic, Chinese and Hawaiian names, and a short list of words.
_WITH_APOSTROPHE = (
    rf"(?:[dlnoA-HJ-XZ]{_APOS}{_L}{{2,}}{_A}*|{_L}+[aeiouAEIOU]{_APOS}[aeiouAEIOU]{_L}*"
    rf"|(?i:{_APOS}(?:n{_APOS}?|em|till?|cause)|[ldj]{_APOS}|ol{_APOS}|c{_APOS}mon|e{_APOS}er|li{_APOS}l"
    rf"|nat{_APOS}l|cap{_APOS}n|o{_APOS}clock))"
)
_PART = rf"(?:{_A}+|[dlnoA-HJ-XZ]{_APOS}{_L}{{2,}}{_A}*)"
_ACRONYM = r"(?:[A-Za-z]\.){2,}"
_ABBREVIATION = rf"(?:(?i:{_alternatives(_ABBREVIATIONS)})|{_alternatives(_CAPITALISED)})\."
_OPENERS = _alternatives(f"{_SENTENCE_OPENERS} {_SENTENCE_OPENERS.upper()}")

# (pattern, spelling of the token). The longest match wins; group 1, where there is one, is the token.
_RULES: list[tuple[str, Callable[[str], str]]] = [
    *(
        (rf"(?i:{cut})", str)
        for cut in (r"(can)not", r"(gon|wan)na", r"(got)ta", r"(gim|lem)me", rf"({_APOS}t)(?:is|was)")
    ),
    (rf"([A-Za-z]*[A-MO-Za-mo-z])(?i:n{_APOS}t)", str),
    (rf"(?i:n{_APOS}t)", _straight_apostrophe),
    (rf"({_WORD}){_AUXILIARY}[^A-Za-z]", str),
    (rf"({_AUXILIARY})[^A-Za-z]", _straight_apostrophe),
    (rf"{_APOS}[msdMSD]", _straight_apostrophe),
    (rf"([Yy]{_APOS})[A-RT-Za-rt-z]", str),
    (_WITH_APOSTROPHE, str),
    (rf"{_APOS}(?:[2-9]0s|[0-9][0-9](?=\s))", str),
    (rf"([A-Za-z])\.\s+{_OPENERS}(?=\s)", str),
    # words, and what hangs together with hyphens, slashes, full stops
    (_WORD, str),
    (rf"{_A}+", str),
    (rf"{_PART}(?:[-_‐‑]{_PART})+", str),
    (r"[A-Za-z0-9]+(?:-[A-Za-z]+)*(?:/[A-Za-z0-9]+(?:-[A-Za-z]+)*){1,2}", str),
    (rf"{_WORD}(?:[.!?]{_WORD})+", str),
    (rf"[A-Za-z0-9][A-Za-z0-9.,]*(?:-[A-Za-z0-9]+)*-(?:[A-Za-z0-9]+|{_ACRONYM})", str),
    (r"[A-Z]+(?:[&+][A-Z]+)+", str),
    # abbreviations
    (rf"{_ABBREVIATION}|{_ACRONYM}|[A-Za-z]\.", str),
    (rf"({_PART}(?:\.?[-_.]{_PART})*\.)[,;:]", str),
    (rf"((?i:{_alternatives(_BEFORE_NUMBER)})\.)\s?[0-9]", str),
    # numbers
    (rf"[-+]?{_NUMBER}", str),
    (r"(?:[0-9]{1,4}[- \xa0])?[0-9]{1,4}[/⁄][0-9]{1,4}", lambda token: token.replace(" ", "\xa0")),
    (r"[A-Z]*\$|[€£¢¥%]", lambda token: _MONEY.get(token, token)),
    ("[¼½¾⅓⅔]", lambda token: _FRACTIONS.get(token, token)),
    # punctuation
    (r"-{2,4}|[–—―]", lambda _: "--"),
    ("-", str),
    (r"\.{3,5}|\.(?:[ \xa0]\.){2,}|…", lambda _: "..."),
    (r"[?!]+|\*+|#+|_+|@+|<<?|>>?", str),
    (r"''|``", str),
    ('(")[A-Za-z0-9$]', lambda _: "``"),
    (r"(')[A-Za-z][^ \t\n\r\xa0]", lambda _: "`"),
    ('"', lambda _: "''"),
    ("'", str),
    ("[‘‛‹’›“«”»]{1,2}|`", lambda token: token.translate(_QUOTES)),
    (r"[\]\[(){}]", lambda token: _BRACKETS.get(token, token)),
    (r"[.,:;+/&=^|~°×÷±§©®™]", str),
]

RULES = [(regex.compile(pattern, regex.VERSION1 | regex.POSIX), spell) for pattern, spell in _RULES]

# What the COCO evaluation throws away. It lowers the case first, so that brackets ("-lrb-") stay.
PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)

# Most words by far. No rule sees more in them, so the others need not be tried.
_PLAIN_WORD = regex.compile(r"(?!(?i:cannot|gonna|wanna|gotta|gimme|lemme)\s)[A-Za-z]+(?=\s)")


def tokenize_all(captions: Sequence[str]) -> list[list[str]]:
    """The words of each caption, as the COCO evaluation counts them; it reads all captions as one text, one a line.

    A mixed number ("3 1/2") is one token with a no-break space inside. Whether "Vitamin C." ends in ``c.`` or in ``c``
    depends on the next line: a single letter keeps its full stop unless a word like "The" opens the next sentence.
    """
    return [
        [token for token in map(str.lower, treebank_tokens(caption, following)) if token not in PUNCTUATION]
        for caption, following in pairwise([*captions, ""])
    ]


def treebank_tokens(text: str, following: str = "") -> Iterator[str]:
    """Everything, punctuation too, in Penn Treebank spelling. Characters that no rule knows are dropped.

    At each position all rules are tried; the longest match wins, on a tie the earlier rule.
    """
    text = text.replace("\n", " ").replace("\xad", "")  # a soft hyphen is a hint to the typesetter
    seen = f"{text}\n{following}\n"
    at = 0
    while at < len(text):
        if plain := _PLAIN_WORD.match(seen, at):
            yield plain[0]
            at = plain.end()
            continue
        matches = [(match, spell) for pattern, spell in RULES if (match := pattern.match(seen, at)) is not None]
        if matches:
            match, spell = max(matches, key=lambda each: each[0].end())
            yield spell(match[match.re.groups])
            at = match.end(match.re.groups)
        else:
            at += 1
