"""Answers to questions: how they are parsed, and their scores beside chance and the majority."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from lcl_core.common.errors import UserError
from lcl_core.evaluation.benchmarks.questions import (
    POPE_SPLITS,
    BenchmarkQuestion,
    answer_metrics,
    parse_option_letter,
    parse_yes_no,
)

OPTIONS = {"A": "red", "B": "light blue", "C": "grey", "D": "none of these"}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes", "yes"), ("yes, it is.", "yes"), ("No", "no"), ("no, there is none", "no"), ("It is not", "no"),
        ("Yes. It is not far", "yes"), ("NO", "yes"), ("", "yes"),
    ],
)  # fmt: skip
def test_yes_or_no_is_parsed_as_pope_does(answer, expected):
    assert parse_yes_no(answer) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("B", "B"), ("(B)", "B"), ("B.", "B"), ("B: light blue", "B"), ("The answer is C.", "C"), ("option (D)", "D"),
        ("A. A dog on a mat", "A"), ("A dog on a mat", None), ("light blue", "B"), ("Light Blue!", "B"),
        ("red or grey", None), ("B or C", None), ("", None), ("E", None),
    ],
)  # fmt: skip
def test_letters_are_parsed_and_undecided_answers_are_none(answer, expected):
    assert parse_option_letter(answer, OPTIONS) == expected


def pope(count=12):
    rng = np.random.default_rng(0)
    return [
        BenchmarkQuestion(
            f"{split}/{n}", f"{n}.png", "?", ("yes", "no", "no")[n % 3], split=split, answer=rng.choice(["Yes", "No"])
        )
        for split, n in product(POPE_SPLITS, range(count))
    ]


def choices():
    return [BenchmarkQuestion(f"{n}", f"{n}", "?", "ABCD"[n % 4], OPTIONS, answer="ABCD"[n * 2 % 4]) for n in range(9)]


def measures(benchmark, questions, only=None):
    found = answer_metrics({"benchmark": benchmark}, [question.to_dict() for question in questions], only)
    return {each.metric: each for each in found}


def test_rates_of_yes_by_hand():
    truths, answers = ("yes", "yes", "no", "no", "no"), ("Yes", "No", "Yes", "Yes", "No")
    asked = [
        BenchmarkQuestion(f"{n}", "i", "?", truth, split="random", answer=answer)
        for n, (truth, answer) in enumerate(zip(truths, answers, strict=True))
    ]
    found = measures("pope", asked)
    values = {"accuracy": 2 / 5, "precision": 1 / 3, "recall": 1 / 2, "F1": 2 / 5, "yes-rate": 3 / 5}
    for name, value in values.items():
        assert found[name].value == pytest.approx(value)
        assert found[f"{name} (random)"].value == pytest.approx(value), "the mean over the one split"
    assert (found["accuracy"].chance, found["accuracy"].majority) == (0.5, 3 / 5)
    assert found["precision"].chance == pytest.approx(2 / 5)
    assert not {name for name in found if "popular" in name}


def test_the_overall_rate_is_the_mean_over_the_splits():
    found = measures("pope", pope())
    for name in ("accuracy", "precision", "recall", "F1", "yes-rate"):
        assert found[name].value == pytest.approx(np.mean([found[f"{name} ({split})"].value for split in POPE_SPLITS]))


def test_a_drawn_score_is_the_score_of_what_was_drawn():
    questions = pope()
    found = measures("pope", questions)
    drawn = np.random.default_rng(5).integers(len(questions), size=len(questions))
    again = measures("pope", [replace(questions[row], id=f"{turn}") for turn, row in enumerate(drawn)])
    counts = np.bincount(drawn, minlength=len(questions))[None]
    for name in ("accuracy", "precision", "recall", "F1", "yes-rate", "F1 (popular)"):
        measure = found[name]
        assert measure.statistic(np.asarray(measure.values), counts)[0] == pytest.approx(again[name].value), name
        low, high = measure.interval(0)
        assert low <= measure.value <= high


@pytest.mark.parametrize(("benchmark", "questions"), [("pope", pope()), ("seed-bench", choices())])
@pytest.mark.parametrize("metric", ["accuracy", "recall (random)"])
def test_chance_is_what_random_answers_reach(benchmark, questions, metric):
    if metric not in (expected := measures(benchmark, questions)):
        pytest.skip("of yes and no alone")
    rng, found = np.random.default_rng(1), []
    for _ in range(1000):
        random = [replace(each, answer=str(rng.choice([*each.options] or ["Yes", "No"]))) for each in questions]
        found.append(measures(benchmark, random, only=[metric])[metric].value)
    assert np.mean(found) == pytest.approx(expected[metric].chance, rel=0.06)


def test_choices_have_an_accuracy_beside_its_baselines():
    (found,) = measures("seed-bench", choices()).values()
    right = sum(question.is_right for question in choices()) / 9
    assert (found.metric, found.value, found.chance, found.majority) == ("accuracy", right, 0.25, pytest.approx(3 / 9))


def test_other_stored_answers_are_refused():
    with pytest.raises(UserError, match="evaluate again") as caught:
        answer_metrics({"benchmark": "pope"}, [{"id": "1", "question": "?"}])
    assert caught.value.code == "records_unreadable"
