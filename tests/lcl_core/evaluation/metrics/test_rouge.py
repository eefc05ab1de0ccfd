"""ROUGE-L by hand."""

from __future__ import annotations

import pytest

from lcl_core.evaluation.metrics.caption_metrics import longest_common, rouge_l


@pytest.mark.parametrize(
    ("one", "other", "length"),
    [("abcbdab", "bdcaba", 4), ("abc", "abc", 3), ("abc", "cba", 1), ("abc", "", 0), ("axbyc", "abc", 3)],
)
def test_longest_common_subsequence(one: str, other: str, length: int) -> None:
    assert longest_common(list(one), list(other)) == longest_common(list(other), list(one)) == length


def test_score_by_hand() -> None:
    """2 words in common; precision 2/3, recall 2/4: 2.44 x 1/3 / (0.5 + 1.44 x 2/3)."""
    assert rouge_l(list("abx"), [list("aqbr")]) == pytest.approx(2.44 / 3 / (0.5 + 0.96))


def test_precision_and_recall_may_come_from_different_references() -> None:
    """Precision 2/2 from the long one, recall 1/1 from the short one."""
    assert rouge_l(["a", "b"], [["a", "b", "c", "d"], ["a"]]) == pytest.approx(1)


def test_nothing_in_common() -> None:
    assert rouge_l(["a"], [["b"]]) == rouge_l([], [["b"]]) == 0
