"""Two rows question by question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lcl_core.evaluation.results import PredictionFile, PredictionStore
from lcl_core.specs.study import MetricSpec
from lcl_core.studies.paired_outcomes import compare_outcomes, question_outcomes
from lcl_core.studies.statistics import paired_test


def metric(**wanted: Any) -> MetricSpec:
    return MetricSpec(name="m", **wanted)


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Three questions in each direction, and what the untrained encoder said to them."""
    kept = PredictionStore(tmp_path / "records")
    kept.start()
    for direction, encoder, ranks in (
        ("text_to_image", "trained", [1, 4, 9]),
        ("image_to_text", "trained", [2, 1, 1]),
        ("text_to_image", "untrained", [9, 9, 1]),
    ):
        about = ("retrieval", "test", "captions[0]", "zero_shot", "ranks", encoder)
        sheet = PredictionFile(*about, part=direction, facts={"candidates": 20})
        kept.add(sheet, [{"query": f"q{n}", "rank": rank, "right": 1, "top": []} for n, rank in enumerate(ranks)])
    return kept.folder


def test_each_question_is_found_or_not(records: Path) -> None:
    at_1, at_5, text, rank, elsewhere, learnt, training = question_outcomes(
        [
            metric(metric="IR@1"),
            metric(metric="IR@5", split="test"),
            metric(metric="TR@1"),
            metric(metric="IR median rank"),
            metric(metric="IR@5", split="val"),
            metric(metric="IR@5", transfer="full"),
            metric(metric="IR@5", of="training"),
        ],
        records,
    )
    assert list(at_1.values()) == [1.0, 0.0, 0.0]
    assert list(at_5.values()) == [1.0, 1.0, 0.0]
    assert at_5[("retrieval", "test", "captions[0]", "zero_shot", "text_to_image", "q1")] == 1.0
    assert list(text.values()) == [0.0, 1.0, 1.0]
    assert rank == elsewhere == learnt == training == {}


def test_seeds_are_averaged_before_questions_are_paired() -> None:
    def answers(*found: float) -> dict[tuple[str, ...], float]:
        return {("t", "s", "v", f"q{n}"): value for n, value in enumerate(found)}

    left = [answers(1, 0, 0, 1), answers(0, 0, 0, 1)]
    right = [answers(1, 1, 0, 1), answers(1, 1, 1)]
    found = compare_outcomes(left, right)
    assert found == paired_test([0.5, 0.0, 0.0], [1.0, 1.0, 0.5])  # q3 was not asked of the last one


def test_without_a_common_question_there_is_no_comparison() -> None:
    one = {("t", "s", "v", "a"): 1.0}
    assert compare_outcomes([one], [{("t", "s", "v", "b"): 1.0}]) is None
    assert compare_outcomes([one], []) is None
    assert compare_outcomes([], []) is None
