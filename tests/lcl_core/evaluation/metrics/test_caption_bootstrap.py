"""Captions become measures whose chance is other images' captions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lcl_core.evaluation.metrics.caption_metrics import caption_metrics, mismatched_captions, score_captions
from lcl_core.evaluation.metrics.core import BootstrapMetric

WORDS = ("a cat on a mat", "two dogs run home", "a red car in the rain", "an old man reads a book", "blue birds sing")


def samples(captions: tuple[str, ...] = WORDS) -> list[dict[str, Any]]:
    return [
        {"query": f"{n}.png", "caption": caption, "references": [truth, f"it is {truth}"]}
        for n, (caption, truth) in enumerate(zip(captions, WORDS, strict=True))
    ]


def measures(captions: tuple[str, ...] = WORDS, **facts: Any) -> dict[str, BootstrapMetric]:
    return {each.metric: each for each in caption_metrics({"seed": 0, **facts}, samples(captions))}


def test_values_are_those_of_the_metrics() -> None:
    said = (WORDS[0], WORDS[1], "a red car", "a man reads", "nothing")
    expected = score_captions(
        {f"{n}.png": each for n, each in enumerate(said)},
        {each["query"]: each["references"] for each in samples()}, with_meteor=False,
    )  # fmt: skip
    got = measures(said)
    for metric in ("CIDEr", "ROUGE-L", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"):
        assert got[metric].value == pytest.approx(expected.values[metric]), metric
        low, high = got[metric].interval(0)
        assert low <= got[metric].value <= high
        assert low < high


def test_a_bootstrap_of_bleu_is_bleu_of_what_was_drawn() -> None:
    said = (WORDS[0], "two dogs", "a red car", "a man reads", "birds sing")
    measure = measures(said)["BLEU-2"]
    drawn = [0, 0, 3, 4, 4]
    counts = np.zeros((1, len(WORDS)), np.int64)
    np.add.at(counts[0], drawn, 1)
    picked = [samples(said)[place] for place in drawn]
    expected = score_captions(
        {str(n): each["caption"] for n, each in enumerate(picked)},
        {str(n): each["references"] for n, each in enumerate(picked)}, with_meteor=False,
    )  # fmt: skip
    assert measure.statistic(measure.values, counts)[0] == pytest.approx(expected.values["BLEU-2"])


def test_an_anonymous_user_is_never_ones_own_and_everybody_gets_one() -> None:
    references = {f"{n}.png": [f"caption {n}", f"other {n}"] for n in range(50)}
    found = mismatched_captions(references, seed=3)
    assert set(found) == set(references)
    assert all(found[name] not in references[name] for name in references)
    givers = {caption.split()[1] for caption in found.values()}
    assert len(givers) == 50  # a circle: each image gives once
    assert mismatched_captions(references, seed=3) == found
    assert mismatched_captions(references, seed=4) != found
    assert mismatched_captions({"a": ["x"]}, seed=0) == {"a": "x"}


def test_chance_and_the_most_frequent_caption_stand_beside_the_value() -> None:
    got = measures(common=WORDS[0])
    truths = {each["query"]: each["references"] for each in samples()}
    alike = score_captions(dict.fromkeys(truths, WORDS[0]), truths, with_meteor=False)
    others = score_captions(mismatched_captions(truths, 0), truths, with_meteor=False)
    for metric, measure in got.items():
        assert measure.chance == pytest.approx(others.values[metric])
        assert measure.majority == pytest.approx(alike.values[metric])
        assert measure.chance < measure.value > measure.majority
    assert all(measure.majority is None for measure in measures().values())
