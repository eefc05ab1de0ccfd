"""Multiple choice: letters read from answers, ScienceQA-IMG, MMBench, SEED-Bench, by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lcl_core.common.errors import UserError
from lcl_core.evaluation.benchmarks import BENCHMARKS
from lcl_core.evaluation.benchmarks.multiple_choice import parse_option_letter
from tests.lcl_core.evaluation.benchmarks.paired import pair_answers

OPTIONS = {"A": "a red bus", "B": "a dog", "C": "a cat on a mat", "D": ""}


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        ("B", "B"),
        ("(C)", "C"),
        ("B.", "B"),
        ("**C**", "C"),
        ("I think it is B because of the ears", "B"),
        ("A", "A"),
        ("A. a red bus", "A"),
        ("A cat on a mat", "C"),  # the article is no letter; the text decides
        ("A big bus drives by", None),
        ("The answer is A.", "A"),
        ("The answer is A bus", None),
        ("A or B", None),
        ("It is a dog, clearly", "B"),
        ("a dog and a red bus", None),
        ("E", None),
        ("b", None),
        ("", None),
    ],
)
def test_which_option_an_answer_means(said: str, letter: str | None) -> None:
    assert parse_option_letter(said, OPTIONS) == letter


def problem(choices: list[str], answer: int, subject: str, grade: str, image: str | None) -> dict[str, Any]:
    return {
        "question": "Which one?", "choices": choices, "answer": answer, "hint": "", "image": image,
        "subject": subject, "grade": grade, "topic": "", "split": "test",
    }  # fmt: skip


def scienceqa_files(folder: Path) -> Path:
    problems = {
        "1": problem(["north", "south"], 1, "social science", "grade3", "image.png"),
        "2": problem(["soft", "hard", "wet"], 0, "natural science", "grade8", "image.png"),
        "3": problem(["yes", "no"], 0, "language science", "grade2", None),
        "4": problem(["x", "y"], 0, "natural science", "grade6", "image.png"),
    }
    (folder / "problems.json").write_text(json.dumps(problems))
    (folder / "pid_splits.json").write_text(json.dumps({"test": ["1", "2", "3"], "val": ["4"]}))
    return folder


def test_scienceqa_takes_the_questions_with_a_image(tmp_path: Path) -> None:
    science = BENCHMARKS["scienceqa-img"]
    questions = science.load(scienceqa_files(tmp_path))
    assert [(question.id, question.truth) for question in questions] == [("1", ("B",)), ("2", ("A",))]
    assert questions[0].options == {"A": "north", "B": "south"}
    scores = science.score(pair_answers(questions, {"1": "The answer is B.", "2": "no idea"}))
    assert scores.metrics == {
        "accuracy": 0.5, "accuracy (SOC)": 1, "accuracy (NAT)": 0, "accuracy (G1-6)": 1, "accuracy (G7-12)": 0,
    }  # fmt: skip
    assert (scores.missing, scores.unread) == ([], ["2"])


def test_scienceqa_names_the_splits_there_are(tmp_path: Path) -> None:
    from lcl_core.evaluation.benchmarks.multiple_choice import ScienceQA

    with pytest.raises(UserError, match="there is no split minitest; there are test, val"):
        ScienceQA("minitest").load(scienceqa_files(tmp_path))


HEAD = "index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\tl2-category\timage\n"


def mmbench_file(folder: Path, *rows: str) -> Path:
    file = folder / "MMBench_DEV_EN.tsv"
    file.write_text(HEAD + "".join(f"{row}\n" for row in rows))
    return file


def test_mmbench_turns_the_options_round(tmp_path: Path) -> None:
    file = mmbench_file(tmp_path, "7\tWhat?\tLook.\tdog\tcat\tbus\t\tB\tobject\tperception\tAAAA")
    first, second, third = BENCHMARKS["mmbench"].load(file)
    assert first.text == "Look.\nWhat?"
    assert (first.options, first.truth) == ({"A": "dog", "B": "cat", "C": "bus"}, ("B",))
    assert (second.options, second.truth) == ({"A": "bus", "B": "dog", "C": "cat"}, ("C",))
    assert (third.options, third.truth) == ({"A": "cat", "B": "bus", "C": "dog"}, ("A",))
    assert [question.id for question in (first, second, third)] == ["7", "1000007", "2000007"]


def test_mmbench_counts_a_question_when_every_turn_is_right(tmp_path: Path) -> None:
    file = mmbench_file(
        tmp_path,
        "1\tWhat?\t\tdog\tcat\t\t\tA\tobject\tperception\tAAAA",
        "2\tWhere?\t\tleft\tright\t\t\tA\tplace\tperception\tAAAA",
        "3\tWho?\t\tman\twoman\t\t\tB\tobject\tperception\tAAAA",
    )
    mmbench = BENCHMARKS["mmbench"]
    said = {"1": "A", "1000001": "dog", "2": "A", "1000002": "A", "3": "B", "1000003": "huh"}
    scores = mmbench.score(pair_answers(mmbench.load(file), said))
    assert scores.metrics["accuracy"] == pytest.approx(1 / 3)
    assert scores.metrics["vanilla accuracy"] == 1
    assert scores.metrics["accuracy (object)"] == 0.5
    assert scores.samples["accuracy"] == {"1": 1, "2": 0, "3": 0}
    assert scores.unread == ["1000003"]


def test_mmbench_takes_official_turns_as_they_are(tmp_path: Path) -> None:
    file = mmbench_file(
        tmp_path,
        "1\tWhat?\t\tdog\tcat\t\t\tA\tobject\tperception\tAAAA",
        "1000001\tWhat?\t\tcat\tdog\t\t\tB\tobject\tperception\tAAAA",
    )
    questions = BENCHMARKS["mmbench"].load(file)
    assert [question.id for question in questions] == ["1", "1000001"]
    assert BENCHMARKS["mmbench"].score(pair_answers(questions, {"1": "A"})).metrics["accuracy"] == 0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1\tWhat?\t\tdog\tcat\t\t\tD\tobject\tp\tAAAA", 'the answer "D" is no option'),
        ("x\tWhat?\t\tdog\tcat\t\t\tA\tobject\tp\tAAAA", "entry x is not as expected"),
        ("1\tWhat?", "the row is cut short"),
    ],
)
def test_mmbench_names_the_bad_line(tmp_path: Path, row: str, message: str) -> None:
    file = mmbench_file(tmp_path, "5\tWhat?\t\tdog\tcat\t\t\tA\tobject\tp\tAAAA", row)
    with pytest.raises(UserError, match=message) as caught:
        BENCHMARKS["mmbench"].load(file)
    assert (caught.value.file, caught.value.line) == (str(file), 3)


def seed_question(number: str, kind: int, medium: str, answer: str) -> dict[str, Any]:
    return {
        "question_id": number, "question": "How many?", "question_type_id": kind, "data_type": medium,
        "data_id": "1454426_2591111986", "answer": answer,
        "choice_a": "one", "choice_b": "two", "choice_c": "three", "choice_d": "four",
    }  # fmt: skip


def test_seed_bench(tmp_path: Path) -> None:
    content = {
        "question_type": {"Scene Understanding": 1, "Action Recognition": 10},
        "questions": [
            seed_question("1", 1, "image", "A"),
            seed_question("2", 1, "image", "B"),
            seed_question("3", 10, "video", "C"),
        ],
    }
    file = tmp_path / "SEED-Bench.json"
    file.write_text(json.dumps(content))
    seed = BENCHMARKS["seed-bench"]
    scores = seed.score(pair_answers(seed.load(file), {"1": "A", "2": "A", "3": "It is three"}))
    assert scores.metrics == pytest.approx({
        "accuracy": 2 / 3, "accuracy (image)": 0.5, "accuracy (video)": 1,
        "accuracy (Scene Understanding)": 0.5, "accuracy (Action Recognition)": 1,
    })  # fmt: skip


def test_seed_bench_with_an_answer_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "SEED-Bench.json"
    file.write_text(json.dumps({"question_type": {"x": 1}, "questions": [seed_question("1", 1, "image", "E")]}))
    with pytest.raises(UserError, match='question 1: the answer is "E"'):
        BENCHMARKS["seed-bench"].load(file)
