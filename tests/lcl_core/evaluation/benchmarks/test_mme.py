"""MME by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from lcl_core.common.errors import UserError
from lcl_core.evaluation.benchmarks.base import pair_answers
from lcl_core.evaluation.benchmarks.mme import parse_mme_answer
from lcl_core.evaluation.benchmarks.registry import BENCHMARKS


@pytest.mark.parametrize(
    ("said", "read"),
    [("Yes", "yes"), ("no.", "no"), ("Yes, it is", "yes"), ("It is: yes", "other"), ("Not", "no"), ("", "other")],
)
def test_first_four_letters(said: str, read: str) -> None:
    assert parse_mme_answer(said) == read


def mme_files(folder: Path) -> Path:
    (folder / "existence.txt").write_text(
        "1.jpg\tIs there a dog?\tYes\n1.jpg\tIs there a cat?\tNo\n2.jpg\tIs there a bus?\tYes\n2.jpg\tA car?\tNo\n"
    )
    (folder / "code_reasoning.txt").write_text("1.png\tDoes it print 1?\tYes\n1.png\tDoes it print 2?\tNo\n")
    return folder


def test_mme(tmp_path: Path) -> None:
    """Existence: 3 of 4 right, 1 of 2 images: 75 + 50. Code: always yes: 50 + 0."""
    mme = BENCHMARKS["mme"]
    questions = mme.load(mme_files(tmp_path))
    said = {
        "existence/1.jpg#1": "Yes", "existence/1.jpg#2": "No", "existence/2.jpg#1": "Yes", "existence/2.jpg#2": "Yes",
        "code_reasoning/1.png#1": "yes", "code_reasoning/1.png#2": "yes",
    }  # fmt: skip
    metrics = mme.score(pair_answers(questions, said)).metrics
    assert metrics["acc (existence)"] == 0.75
    assert metrics["acc+ (existence)"] == 0.5
    assert metrics["score (existence)"] == metrics["perception"] == 125
    assert metrics["cognition"] == 50


def test_missing_answers_are_wrong_and_named(tmp_path: Path) -> None:
    mme = BENCHMARKS["mme"]
    scores = mme.score(pair_answers(mme.load(mme_files(tmp_path)), {"existence/1.jpg#1": "Yes"}))
    assert scores.metrics["acc (existence)"] == 0.25
    assert scores.metrics["acc+ (existence)"] == 0
    assert len(scores.missing) == 5


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("1.jpg\tIs it?\tYes\n1.jpg\tIs it?\n", "expected image, question, Yes or No", 2),
        ("1.jpg\tIs it?\tYes\n", "1.jpg has 1 questions", None),
    ],
)
def test_bad_files_are_named(tmp_path: Path, text: str, message: str, line: int | None) -> None:
    file = tmp_path / "count.txt"
    file.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        BENCHMARKS["mme"].load(tmp_path)
    assert (caught.value.file, caught.value.line) == (str(file), line)
