"""GQA by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lcl_core.common.errors import UserError
from lcl_core.evaluation.benchmarks import BENCHMARKS
from tests.lcl_core.evaluation.benchmarks.paired import pair_answers

QUESTIONS = {
    "201": {
        "imageId": "n1", "question": "Is it red?", "answer": "yes",
        "types": {"structural": "verify", "semantic": "attr", "detailed": "verifyAttr"},
    },
    "202": {
        "imageId": "n1", "question": "What is it?", "answer": "fire truck",
        "types": {"structural": "query", "semantic": "obj", "detailed": "categoryThat"},
    },
    "203": {
        "imageId": "n2", "question": "Is it left or right?", "answer": "left",
        "types": {"structural": "choose", "semantic": "rel", "detailed": "relChooser"},
    },
}  # fmt: skip


def test_gqa(tmp_path: Path) -> None:
    (tmp_path / "testdev_balanced_questions.json").write_text(json.dumps(QUESTIONS))
    gqa = BENCHMARKS["gqa"]
    questions = gqa.load(tmp_path)
    assert (questions[0].id, questions[0].image, questions[0].truth) == ("201", "n1", ("yes",))
    scores = gqa.score(pair_answers(questions, {"201": "Yes.", "202": "truck", "203": " LEFT "}))
    assert scores.metrics["accuracy"] == pytest.approx(2 / 3)
    assert scores.metrics["accuracy (open)"] == 0
    assert scores.metrics["accuracy (binary)"] == scores.metrics["accuracy (choose)"] == 1
    assert scores.samples["accuracy"] == {"201": 1, "202": 0, "203": 1}


def test_a_question_without_answer_is_named(tmp_path: Path) -> None:
    file = tmp_path / "test_questions.json"
    file.write_text(json.dumps({"7": {"imageId": "n", "question": "?", "types": QUESTIONS["201"]["types"]}}))
    with pytest.raises(UserError, match="entry 7 has no 'answer'") as caught:
        BENCHMARKS["gqa"].load(file)
    assert (caught.value.code, caught.value.file) == ("benchmark_unreadable", str(file))
