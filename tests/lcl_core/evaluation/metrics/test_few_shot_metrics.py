"""Repeated classification: the mean over draws, their deviation, intervals over images."""

from __future__ import annotations

import pytest

from lcl_core.evaluation.results import PredictionFile, few_shot_metrics


def test_by_hand() -> None:
    samples = [{"query": "a", "label": "x", "ranks": [1, 1]}, {"query": "b", "label": "y", "ranks": [1, 6]}]
    sheet = PredictionFile("few_shot", "t", "kind", "frozen", "draws", "trained", facts={"candidates": 8})
    first, fifth = few_shot_metrics(sheet, samples)
    assert (first.metric, first.value, first.chance) == ("acc@1", 0.75, 1 / 8)
    assert first.spread == pytest.approx(0.5 / 2**0.5)  # draws reach 1 and .5
    assert first.values.tolist() == [1.0, 0.5]
    assert (fifth.value, fifth.chance) == (0.75, 5 / 8)
