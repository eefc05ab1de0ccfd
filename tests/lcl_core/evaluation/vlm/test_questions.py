"""Answers to questions: how they are parsed, and their scores beside chance and the majority."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from lcl_core.evaluation.vlm.questions import (
    LabelQuestion,
    answer_metrics,
    derived_questions,
    parse_yes_no,
)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes", "yes"), ("yes, it is.", "yes"), ("No", "no"), ("no, there is none", "no"), ("It is not", "no"),
        ("Yes. It is not far", "yes"), ("NO", "yes"), ("", "yes"),
    ],
)  # fmt: skip
def test_yes_or_no_is_parsed_as_pope_does(answer, expected):
    assert parse_yes_no(answer) == expected


def pope(count=36):
    rng = np.random.default_rng(0)
    return [
        LabelQuestion(f"{n}", f"{n}.png", "?", ("yes", "no", "no")[n % 3], answer=rng.choice(["Yes", "No"]))
        for n in range(count)
    ]


def measures(questions, **more):
    found = answer_metrics([question.to_dict() for question in questions], **more)
    return {each.metric: each for each in found}


def test_rates_of_yes_by_hand():
    truths, answers = ("yes", "yes", "no", "no", "no"), ("Yes", "No", "Yes", "Yes", "No")
    asked = [
        LabelQuestion(f"{n}", "i", "?", truth, answer=answer)
        for n, (truth, answer) in enumerate(zip(truths, answers, strict=True))
    ]
    found = measures(asked)
    values = {"accuracy": 2 / 5, "precision": 1 / 3, "recall": 1 / 2, "F1": 2 / 5, "yes-rate": 3 / 5}
    assert {name: each.value for name, each in found.items()} == pytest.approx(values)
    assert (found["accuracy"].chance, found["accuracy"].majority) == (0.5, 3 / 5)
    assert found["precision"].chance == pytest.approx(2 / 5)
    assert measures(asked, baselines=False)["accuracy"].majority is None


def test_a_drawn_score_is_the_score_of_what_was_drawn():
    questions = pope()
    drawn = np.random.default_rng(5).integers(len(questions), size=len(questions))
    again = measures([replace(questions[row], id=f"{turn}") for turn, row in enumerate(drawn)])
    counts = np.bincount(drawn, minlength=len(questions))[None]
    for name, found in measures(questions).items():
        assert found.statistic(np.asarray(found.values), counts)[0] == pytest.approx(again[name].value), name
        low, high = found.interval(0)
        assert low <= found.value <= high


def test_chance_is_what_random_answers_reach():
    questions = pope()
    expected, rng, found = measures(questions), np.random.default_rng(1), []
    for _ in range(300):
        random = [replace(each, answer=str(rng.choice(["Yes", "No"]))) for each in questions]
        found.append({name: each.value for name, each in measures(random, baselines=False).items()})
    for name, each in expected.items():
        assert np.mean([values[name] for values in found]) == pytest.approx(each.chance, rel=0.06), name


KINDS = ("birds", "bugs", "fish", "mammals", "tools", "chairs")
OWN = {f"{kind}/{n}.png": kind for kind in KINDS for n in range(4)}


def test_derived_questions_have_right_and_wrong_values_in_equal_shares():
    first, again, other = (derived_questions(OWN, KINDS, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert Counter(each.truth for each in first) == {"yes": len(OWN), "no": len(OWN)}
    for each in first:
        assert (each.text.split('"')[1] == OWN[each.image]) == (each.truth == "yes")
    assert first == again != other
