"""POPE and MME by hand, also of runs that answered other parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lcl_core.common.errors import UserError
from lcl_core.evaluation.benchmarks import BENCHMARKS, benchmark_metrics
from lcl_core.evaluation.benchmarks.base import BenchmarkQuestion
from lcl_core.evaluation.benchmarks.yes_no import parse_mme_answer, parse_pope_answer
from lcl_core.evaluation.significance import PairedOutcomes
from tests.lcl_core.evaluation.benchmarks.paired import pair_answers

LABELS = ["yes", "yes", "yes", "no", "no"]


def pope_files(folder: Path) -> Path:
    for split in ("random", "popular", "adversarial"):
        lines = [
            {"question_id": number, "image": "COCO_1.jpg", "text": "Is there a dog in the image?", "label": label}
            for number, label in enumerate(LABELS, start=1)
        ]
        (folder / f"coco_pope_{split}.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("Yes, there is a dog.", "yes"),
        ("No", "no"),
        ("no, there is none", "no"),
        ("There is not a dog", "no"),
        ("There is a dog. It is not big.", "yes"),  # only the first sentence
        ("Nothing here", "yes"),  # neither no nor not
    ],
)
def test_first_sentence(said: str, read: str) -> None:
    assert parse_pope_answer(said) == read


def test_pope(tmp_path: Path) -> None:
    """Random: yes yes no yes no against yes yes yes no no: 2 hits, 1 false alarm, 1 miss, 1 right no."""
    pope = BENCHMARKS["pope"]
    questions = pope.load(pope_files(tmp_path))
    said = {f"random/{n}": text for n, text in enumerate(["Yes", "Yes", "No", "Yes", "No"], start=1)}
    said |= {f"{split}/{n}": label for split in ("popular", "adversarial") for n, label in enumerate(LABELS, start=1)}
    scores = pope.score(pair_answers(questions, said))
    expected = {"accuracy": 3 / 5, "precision": 2 / 3, "recall": 2 / 3, "F1": 2 / 3, "yes-rate": 3 / 5}
    for name, value in expected.items():
        assert scores.metrics[f"{name} (random)"] == pytest.approx(value)
    assert scores.metrics["F1 (popular)"] == scores.metrics["accuracy (adversarial)"] == 1
    assert scores.metrics["F1"] == pytest.approx((2 / 3 + 1 + 1) / 3)
    assert sum(scores.samples["accuracy (random)"].values()) == 3


def test_missing_answers_are_wrong_whatever_the_label(tmp_path: Path) -> None:
    scores = BENCHMARKS["pope"].score(pair_answers(BENCHMARKS["pope"].load(pope_files(tmp_path)), {}))
    assert scores.metrics["accuracy"] == scores.metrics["F1"] == 0
    assert len(scores.missing) == 15


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    file = pope_files(tmp_path) / "coco_pope_popular.json"
    file.write_text(file.read_text() + '{"question_id": 9\n')
    with pytest.raises(UserError) as caught:
        BENCHMARKS["pope"].load(tmp_path)
    assert (caught.value.file, caught.value.line) == (str(file), 6)


def test_a_label_that_is_neither(tmp_path: Path) -> None:
    file = pope_files(tmp_path) / "coco_pope_random.json"
    file.write_text('{"question_id": 1, "image": "x", "text": "?", "label": "maybe"}\n')
    with pytest.raises(UserError, match='the label is "maybe"') as caught:
        BENCHMARKS["pope"].load(tmp_path)
    assert caught.value.line == 1


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


def compared(
    name: str, metric: str, *runs: tuple[list[BenchmarkQuestion], dict[str, str]]
) -> tuple[tuple[float, float], int]:
    """A metric of two runs over the questions or images that both have, and their number."""
    left, right = (
        next(
            each
            for each in benchmark_metrics({"benchmark": name}, [r.to_dict() for r in pair_answers(*run)], {metric})
            if each.metric == metric
        )
        for run in runs
    )
    pairs = PairedOutcomes.of(left, right)
    assert pairs is not None
    assert 0 <= pairs.p_value(0, 100) <= 1
    return pairs.values(), int(pairs.counts.sum())


def test_mme_of_runs_with_other_subtasks_is_compared_by_subtask(tmp_path: Path) -> None:
    """The first run lacks the first subtask of the second; code: 50 + 0 points against 100 + 100."""
    both = BENCHMARKS["mme"].load(mme_files(tmp_path))
    code = [question for question in both if question.groups["subtask"] == "code_reasoning"]
    always, right = dict.fromkeys((each.id for each in both), "yes"), {each.id: each.truth[0] for each in both}
    assert compared("mme", "score (code_reasoning)", (code, always), (both, right)) == ((50, 200), 1)
    assert compared("mme", "cognition", (both, right), (code, always)) == ((200, 50), 1)
    assert compared("mme", "perception", (both, right), (both, always)) == ((200, 50), 3)


def test_pope_of_runs_with_other_splits_is_compared_by_split(tmp_path: Path) -> None:
    """Always "yes" has precision 3/5; splits that only one run has do not count."""
    every = BENCHMARKS["pope"].load(pope_files(tmp_path))
    popular = [question for question in every if question.groups["split"] == "popular"]
    always, right = dict.fromkeys((each.id for each in every), "yes"), {each.id: each.truth[0] for each in every}
    assert compared("pope", "precision (popular)", (popular, always), (every, right)) == ((3 / 5, 1), 5)
    assert compared("pope", "precision", (every, right), (popular, always)) == ((1, 3 / 5), 5)
