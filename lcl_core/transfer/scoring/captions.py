"""Sheets of captions: BLEU-1 to BLEU-4, ROUGE-L, CIDEr and, where Java is present, METEOR.

A sample has ``query`` (the picture), ``caption`` and ``references``. The sheet's facts hold ``seed`` and, where
something was learnt, ``common``: the most frequent caption of the training split.

Chance is a caption of another picture: each picture gets one of the references of the next in a random circle of all
pictures. The majority is the most frequent caption of training for every picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcl_core.transfer.language import bleu
from lcl_core.transfer.language.captions import CaptionScores, score_captions
from lcl_core.transfer.metrics import Ints, Numbers, Statistic, mean_of
from lcl_core.transfer.records import Sheet
from lcl_core.transfer.scoring.measure import Measure

Samples = Sequence[dict[str, Any]]

_MEANS = ("CIDEr", "ROUGE-L")  # their value is the mean over pictures, unlike BLEU's and METEOR's


def caption_measures(sheet: Sheet, samples: Samples) -> list[Measure]:
    """The measures of one sheet."""
    references = {sample["query"]: sample["references"] for sample in samples}
    own = score_captions({sample["query"]: sample["caption"] for sample in samples}, references)
    chance = _baseline(strangers(references, sheet.facts["seed"]), references)
    common = sheet.facts.get("common")
    majority = {} if common is None else _baseline(dict.fromkeys(references, common), references)

    def measure(metric: str, values: NDArray, statistic: Statistic) -> Measure:
        return Measure(metric, own.pictures, values, statistic, chance.get(metric), majority.get(metric))

    found = [measure(name, own.per_picture[name], mean_of) for name in _MEANS]
    found += [measure(f"BLEU-{n}", own.bleu_counts, _bleu(n)) for n in (4, 3, 2, 1)]
    return found + ([measure("METEOR", *_meteor(own))] if "METEOR" in own.values else [])


def strangers(references: dict[str, Sequence[str]], seed: int) -> dict[str, str]:
    """A caption of another picture for each picture; of its own where there is no other."""
    draw = np.random.default_rng(seed)
    pictures = list(references)
    circle = draw.permutation(len(pictures))
    found = {}
    for place, number in enumerate(circle):
        others = references[pictures[circle[(place + 1) % len(circle)]]]
        found[pictures[number]] = others[int(draw.integers(len(others)))]
    return found


def _baseline(captions: dict[str, str], references: dict[str, Sequence[str]]) -> dict[str, float]:
    return score_captions(captions, references, with_meteor=False).values


def _bleu(n: int) -> Statistic:
    """BLEU-n of drawn pictures, from the sums of their counts."""

    def statistic(distinct: Numbers, counts: Ints) -> Numbers:
        return bleu.scores(counts @ distinct)[..., n - 1]

    return statistic


def _meteor(own: CaptionScores) -> tuple[NDArray, Statistic]:
    """METEOR is no mean over pictures, but near one: drawn means are moved so that all pictures give its value."""
    return own.per_picture["METEOR"] + (own.values["METEOR"] - own.per_picture["METEOR"].mean()), mean_of
