"""What every scorer has in common: records, errors, and numbers that intervals can be drawn from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lcl_core.common.errors import UserError
from lcl_core.evaluation.benchmarks import BENCHMARKS, get_benchmark
from lcl_core.evaluation.benchmarks.base import AnsweredQuestion, BenchmarkQuestion
from lcl_core.evaluation.metrics import core

GROUPS = {
    "answer_type": "other", "answerable": "answerable", "form": "open", "structural": "query", "semantic": "obj",
    "split": "random", "subject": "NAT", "grade": "G1-6", "circle": "1", "turn": "0", "category": "object",
    "medium": "image", "dimension": "Scene Understanding", "subtask": "count",
}  # fmt: skip


def records(count: int, answer: str | None) -> list[AnsweredQuestion]:
    return [
        AnsweredQuestion(
            BenchmarkQuestion(str(n), f"{n}.jpg", "?", ("yes",), {"A": "x"}, {**GROUPS, "circle": str(n)}), answer
        )
        for n in range(count)
    ]


def test_a_stored_sample_comes_back_as_it_was() -> None:
    (record,) = records(1, "Yes")
    assert AnsweredQuestion.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_a_foreign_sample_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        AnsweredQuestion.from_dict({"query": "x"})
    assert caught.value.code == "records_unreadable"


@pytest.mark.parametrize("name", BENCHMARKS)
def test_without_answers_everything_is_wrong_and_named(name: str) -> None:
    scores = BENCHMARKS[name].score(records(3, None))
    assert scores.missing == ["0", "1", "2"]
    assert set(scores.metrics.values()) <= {0, 1}
    assert all(
        value == 0 for key, value in scores.metrics.items() if key.startswith(("accuracy", "acc", "F1", "answerab"))
    )


@pytest.mark.parametrize("name", BENCHMARKS)
def test_no_records_make_no_error(name: str) -> None:
    assert BENCHMARKS[name].score([]).missing == []


@pytest.mark.parametrize("name", BENCHMARKS)
def test_what_is_not_there_is_a_user_error(name: str, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(UserError) as caught:
            BENCHMARKS[name].load(path)
        assert caught.value.code == "benchmark_unreadable"


@pytest.mark.parametrize("name", BENCHMARKS)
@pytest.mark.parametrize("content", [b"[1, 2", b"[1, 2]", b"{}", b"7", b"\xff\xfe", b"", b'{"questions": 3}'])
def test_files_of_another_kind_are_user_errors(name: str, content: bytes, tmp_path: Path) -> None:
    names = [
        "questions.json", "annotations.json", "problems.json", "pid_splits.json", "existence.txt", "MMBench.tsv",
        "SEED-Bench.json", "TextVQA_0.5.1_val.json", "pope_random.json", "pope_popular.json", "pope_adversarial.json",
    ]  # fmt: skip
    for file in names:
        (tmp_path / file).write_bytes(content)
    path = tmp_path / "questions.json" if name == "vizwiz" else tmp_path
    with pytest.raises(UserError) as caught:
        BENCHMARKS[name].load(path)
    assert caught.value.code == "benchmark_unreadable"


def test_samples_feed_the_bootstrap() -> None:
    scores = BENCHMARKS["gqa"].score([*records(30, "yes"), *records(10, "no")][:40])
    values = np.array(list(scores.samples["accuracy"].values()))
    low, high = core.bootstrap_interval(values, core.mean_of, seed=0)
    assert low <= scores.metrics["accuracy"] <= high


def test_an_unknown_benchmark_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="there is no benchmark vqa; there are vqav2, gqa"):
        get_benchmark("vqa")
