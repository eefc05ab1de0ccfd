"""Two rows question by question."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from lcl_core.common.errors import UserError
from lcl_core.evaluation.benchmarks.yes_no import POPE
from lcl_core.evaluation.metrics import caption_metrics
from lcl_core.evaluation.metrics.caption_metrics import MeteorProgram
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


def test_files_that_no_metric_asks_for_are_neither_read_nor_scored(tmp_path: Path) -> None:
    kept = PredictionStore(tmp_path / "records")
    kept.start()
    retrieval = ("retrieval", "test", "captions[0]", "zero_shot", "ranks", "trained")
    sheet = PredictionFile(*retrieval, part="text_to_image", facts={"candidates": 20})
    kept.add(sheet, [{"query": "q", "rank": 2, "right": 1, "top": []}])
    unscorable = {"query": "i", "caption": "a drawing", "references": []}
    kept.add(PredictionFile("captioning", "test", "own", "frozen", "captions", "trained"), [unscorable])
    (kept.folder / "captioning-val.jsonl").write_text("not JSON")
    index = json.loads((kept.folder / "index.json").read_text())
    index.append({**index[-1], "split": "val", "file": "captioning-val.jsonl"})
    (kept.folder / "index.json").write_text(json.dumps(index))
    (found,) = question_outcomes([metric(metric="IR@5", split="test")], kept.folder)
    assert list(found.values()) == [1.0]
    with pytest.raises(UserError, match="no reference captions"):
        question_outcomes([metric(metric="CIDEr", split="test")], kept.folder)


def test_captions_and_answers_have_outcomes_without_their_baselines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Facts of the baselines (``seed``) are missing, and METEOR would fail."""
    kept = PredictionStore(tmp_path / "records")
    kept.start()
    captions = [{"query": f"i{n}", "caption": f"drawing {n}", "references": [f"drawing {n}"]} for n in range(3)]
    kept.add(PredictionFile("captioning", "test", "own", "frozen", "captions", "trained"), captions)
    program = MeteorProgram(sys.executable, tmp_path / "absent.jar")
    monkeypatch.setattr(caption_metrics, "find_meteor", lambda: program)
    monkeypatch.setattr(POPE, "chance", None)
    answers = [
        {"id": f"{n}", "image": f"i{n}", "text": "Is it?", "truth": [truth], "options": {},
         "groups": {"split": "random"}, "answer": "yes"}
        for n, truth in enumerate(("yes", "no"))
    ]  # fmt: skip
    about = ("dialogue", "test", "pope", "frozen", "answers", "trained")
    kept.add(PredictionFile(*about, facts={"benchmark": "pope"}), answers)
    rouge, accuracy, meteor = question_outcomes(
        [metric(metric="ROUGE-L"), metric(metric="accuracy (random)"), metric(metric="METEOR")], kept.folder
    )
    assert list(rouge.values()) == pytest.approx([1.0] * 3)
    assert list(accuracy.values()) == [1.0, 0.0]
    assert meteor == {}


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
