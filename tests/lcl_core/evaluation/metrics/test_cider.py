"""CIDEr and CIDEr-D by hand."""

from __future__ import annotations

import math

import pytest

from lcl_core.evaluation.metrics.caption_metrics import cider


def test_one_word_by_hand() -> None:
    """Four images; "a" is in two of them, "b" and "c" in one each: weights log 2, log 4, log 4."""
    hypotheses = [["a"], ["b"], ["x"], ["y"]]
    references = [[["a", "b"]], [["a", "c"]], [["p"]], [["q"]]]
    first = cider(hypotheses, references, clipped=False)
    a, b = math.log(2), math.log(4)
    # of unigrams only: the cosine of (a) with (a, b); a mean over four lengths, times ten
    assert first[0] == pytest.approx(10 / 4 * a / math.hypot(a, b))
    assert first[1:].tolist() == [0, 0, 0]


def test_equal_captions_score_ten_when_their_words_are_rare() -> None:
    references = [[list("abcde")], [list("fghij")]]
    assert cider([list("abcde"), ["z"]], references).tolist() == pytest.approx([10, 0])


def test_clipping_and_length_penalty() -> None:
    """Caption "a a" for "a": weight 2w against w. Unclipped the cosine is 1; clipped w² / (2w · w) = 1/2. One 2-gram
    more than the reference: exp(-1 / 72)."""
    hypotheses, references = [["a", "a"], ["b"]], [[["a"]], [["b"]]]
    assert cider(hypotheses, references, clipped=False)[0] == pytest.approx(10 / 4)
    assert cider(hypotheses, references)[0] == pytest.approx(10 / 4 * 0.5 * math.exp(-1 / 72))


def test_several_references_are_averaged() -> None:
    references = [[["a"], ["z"]], [["b"]]]
    assert cider([["a"], ["b"]], references)[0] == pytest.approx(10 / 4 / 2)


def test_words_of_every_image_are_worth_nothing() -> None:
    assert cider([["a"], ["a"]], [[["a"]], [["a"]]]).tolist() == [0, 0]
    assert cider([["a"]], [[["a"]]]).tolist() == [0]  # of a single image everything is common
