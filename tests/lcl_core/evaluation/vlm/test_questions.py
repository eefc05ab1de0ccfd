"""Answers to questions: how they are parsed, and their scores beside chance and the majority."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from lcl_core.evaluation.vlm.questions import (
    BenchmarkQuestion,
    answer_metrics,
    derived_questions,
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


def pope(count=36):
    rng = np.random.default_rng(0)
    return [
        BenchmarkQuestion(f"{n}", f"{n}.png", "?", ("yes", "no", "no")[n % 3], answer=rng.choice(["Yes", "No"]))
        for n in range(count)
    ]


def choices():
    return [BenchmarkQuestion(f"{n}", f"{n}", "?", "ABCD"[n % 4], OPTIONS, answer="ABCD"[n * 2 % 4]) for n in range(9)]


def measures(benchmark, questions, **more):
    found = answer_metrics({"benchmark": benchmark}, [question.to_dict() for question in questions], **more)
    return {each.metric: each for each in found}


def test_rates_of_yes_by_hand():
    truths, answers = ("yes", "yes", "no", "no", "no"), ("Yes", "No", "Yes", "Yes", "No")
    asked = [
        BenchmarkQuestion(f"{n}", "i", "?", truth, answer=answer)
        for n, (truth, answer) in enumerate(zip(truths, answers, strict=True))
    ]
    found = measures("pope", asked)
    values = {"accuracy": 2 / 5, "precision": 1 / 3, "recall": 1 / 2, "F1": 2 / 5, "yes-rate": 3 / 5}
    assert {name: each.value for name, each in found.items()} == pytest.approx(values)
    assert (found["accuracy"].chance, found["accuracy"].majority) == (0.5, 3 / 5)
    assert found["precision"].chance == pytest.approx(2 / 5)
    assert measures("pope", asked, baselines=False)["accuracy"].majority is None


def test_a_drawn_score_is_the_score_of_what_was_drawn():
    questions = pope()
    drawn = np.random.default_rng(5).integers(len(questions), size=len(questions))
    again = measures("pope", [replace(questions[row], id=f"{turn}") for turn, row in enumerate(drawn)])
    counts = np.bincount(drawn, minlength=len(questions))[None]
    for name, found in measures("pope", questions).items():
        assert found.statistic(np.asarray(found.values), counts)[0] == pytest.approx(again[name].value), name
        low, high = found.interval(0)
        assert low <= found.value <= high


@pytest.mark.parametrize(("benchmark", "questions"), [("pope", pope()), ("seed-bench", choices())])
def test_chance_is_what_random_answers_reach(benchmark, questions):
    expected, rng, found = measures(benchmark, questions), np.random.default_rng(1), []
    for _ in range(300):
        random = [replace(each, answer=str(rng.choice([*each.options] or ["Yes", "No"]))) for each in questions]
        found.append({name: each.value for name, each in measures(benchmark, random, baselines=False).items()})
    for name, each in expected.items():
        assert np.mean([values[name] for values in found]) == pytest.approx(each.chance, rel=0.06), name


def test_choices_have_an_accuracy_beside_its_baselines():
    (found,) = measures("seed-bench", choices()).values()
    right = sum(question.is_right for question in choices()) / 9
    assert (found.metric, found.value, found.chance, found.majority) == ("accuracy", right, 0.25, pytest.approx(3 / 9))


KINDS = ("birds", "bugs", "fish", "mammals", "tools", "chairs")
OWN = {f"{kind}/{n}.png": kind for kind in KINDS for n in range(4)}


def test_derived_questions_have_right_and_wrong_values_in_equal_shares():
    found = derived_questions(OWN, KINDS, seed=0)
    assert Counter(each.truth for each in found["pope"]) == {"yes": len(OWN), "no": len(OWN)}
    for each in found["pope"]:
        assert (each.text.split('"')[1] == OWN[each.image]) == (each.truth == "yes")
    for each in found["seed-bench"]:
        assert each.options[each.truth] == OWN[each.image]
        assert len(set(each.options.values())) == 4
    assert {each.truth for each in found["seed-bench"]} == set("ABCD")
    assert derived_questions(OWN, KINDS, seed=0) == found != derived_questions(OWN, KINDS, seed=1)
    two = derived_questions({"1.png": "a", "2.png": "b"}, "ab", 0)["seed-bench"]
    assert set(two[0].options.values()) == {"a", "b"}
