"""BLEU by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lcl_core.evaluation.metrics import caption_metrics


def of(hypothesis: str, *references: str) -> np.ndarray:
    return caption_metrics.bleu_counts(hypothesis.split(), [reference.split() for reference in references])


def test_counts_are_clipped_by_the_best_single_reference() -> None:
    """The classic: seven times "the"; one reference has it twice, the other once."""
    counts = of("the the the the the the the", "the cat is on the mat", "there is a cat on the mat")
    assert counts[:2].tolist() == [2, 0]
    assert counts[4:].tolist() == [7, 6, 5, 4, 7, 7]


def test_the_closest_length_is_the_shorter_of_two() -> None:
    assert of("a b c d", "a b c", "a b c d e", "a")[-1] == 3


def test_scores_by_hand() -> None:
    """Hits 3/4, 2/3, 1/2, 0/1; as long as its reference."""
    one, two, three, four = caption_metrics.bleu_scores(of("a b c x", "a b c d"))
    assert one == pytest.approx(3 / 4)
    assert two == pytest.approx(math.sqrt(3 / 4 * 2 / 3))
    assert three == pytest.approx((3 / 4 * 2 / 3 * 1 / 2) ** (1 / 3))
    assert four < 1e-3


def test_a_short_caption_pays() -> None:
    assert caption_metrics.bleu_scores(of("a b", "a b c d"))[0] == pytest.approx(math.exp(1 - 4 / 2))
    assert caption_metrics.bleu_scores(of("a b c d e", "a b c d"))[0] == pytest.approx(4 / 5)


def test_the_corpus_is_scored_from_summed_counts() -> None:
    """4 of 6 words hit, which is not the mean of 1 and 1/3; lengths 6 and 6."""
    both = of("a b c", "a b c") + of("a x y", "a b c")
    assert caption_metrics.bleu_scores(both)[0] == pytest.approx(4 / 6)


def test_many_draws_at_once() -> None:
    counts = np.stack([of("a b c", "a b c"), of("a x y", "a b c")])
    drawn = caption_metrics.bleu_scores(np.array([[2, 0], [1, 1]]) @ counts)
    assert drawn[:, 0] == pytest.approx([1, 4 / 6])


def test_an_empty_caption_scores_nothing() -> None:
    assert caption_metrics.bleu_scores(of("", "a b")) == pytest.approx(np.zeros(4), abs=1e-6)
