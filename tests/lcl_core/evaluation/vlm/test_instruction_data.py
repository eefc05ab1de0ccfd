"""Conversations and questions made from labels: balanced, never self-contradicting, readable as official files."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from lcl_core.evaluation.benchmarks import get_benchmark
from lcl_core.evaluation.tasks.base import EvalImage
from lcl_core.evaluation.vlm.instruction_data import (
    label_distractors,
    parse_conversations,
    synthetic_instructions,
    synthetic_pope,
    synthetic_seed_bench,
    write_instructions,
    write_questions,
)

# Four kinds of animals and two of things; birds are the most frequent.
KINDS = {"birds": 9, "bugs": 6, "fish": 5, "mammals": 4, "tools": 3, "chairs": 2}
THINGS = ("tools", "chairs")


def sample_images() -> list[EvalImage]:
    return [
        EvalImage(f"{kind}/{n}.png", (kind,), {"kind": kind, "realm": "things" if kind in THINGS else "animals"})
        for kind, count in KINDS.items()
        for n in range(count)
    ] + [EvalImage("unknown.png", (), {"realm": "animals"})]


def test_wrong_answers_are_drawn_as_pope_draws_them() -> None:
    known = label_distractors("kind", sample_images())
    assert known.counts == KINDS
    assert known.alike["chairs"][0] == "tools"
    assert set(known.alike["bugs"][:3]) == {"birds", "fish", "mammals"}
    requested = [sample_image for sample_image in sample_images() if "kind" in sample_image.labels]
    entries = synthetic_pope(requested, known, seed=0)
    assert set(entries) == {"random", "popular", "adversarial"}
    for split, questions in entries.items():
        assert Counter(each["label"] for each in questions) == {"yes": len(requested), "no": len(requested)}
        for each in questions:
            own = each["image"].split("/")[0]
            assert (f'"{own}"' in each["text"]) == (each["label"] == "yes"), split
    popular = {each["text"].split('"')[1] for each in entries["popular"] if each["label"] == "no"}
    assert popular <= {"birds", "bugs", "fish", "mammals"}  # the three most frequent, the own one left out
    wrong = {
        each["text"].split('"')[1]
        for each in entries["adversarial"]
        if each["label"] == "no" and each["image"].startswith("mammals")
    }
    assert wrong <= {"birds", "bugs", "fish"}
    assert synthetic_pope(requested, known, seed=0) == entries
    assert synthetic_pope(requested, known, seed=1) != entries


def test_the_files_are_those_of_the_benchmarks(tmp_path: Path) -> None:
    train = sample_images()
    known = label_distractors("kind", train)
    requested = [sample_image for sample_image in train if "kind" in sample_image.labels]
    write_questions(tmp_path, synthetic_pope(requested, known, 0), synthetic_seed_bench(requested, known, 0))
    pope = get_benchmark("pope").load(tmp_path / "pope")
    assert len(pope) == 6 * len(requested)
    letters = Counter[str]()
    for question in get_benchmark("seed-bench").load(tmp_path / "SEED-Bench.json"):
        assert question.options[question.truth[0]] == question.image.split("/")[0]
        assert len(set(question.options.values())) == 4
        letters.update(question.truth)
    assert set(letters) == set("ABCD")


def test_conversations_balance_yes_no_and_letters(tmp_path: Path) -> None:
    train = sample_images()
    entries = synthetic_instructions(train, label_distractors("kind", train), per_image=3, seed=0)
    assert len(entries) == 3 * (len(train) - 1)
    answers = Counter(each["conversations"][1]["value"] for each in entries)
    assert answers["Yes"] == answers["No"] == len(train) - 1
    write_instructions(tmp_path, entries)
    file = tmp_path / "instructions.json"
    read = parse_conversations(json.loads(file.read_text()), file)
    assert [each.turns[0].answer for each in read] == [each["conversations"][1]["value"] for each in entries]
    for each in read:
        own = str(each.image).split("/")[0]
        question = each.turns[0].question
        if each.turns[0].answer == "Yes":
            assert f'"{own}"' in question
        elif each.turns[0].answer == "No":
            assert f'"{own}"' not in question
        else:
            assert f"\n{each.turns[0].answer}. {own}\n" in question


def test_two_values_are_enough() -> None:
    train = [EvalImage(f"{n}.png", (), {"kind": "ab"[n % 2]}) for n in range(6)]
    known = label_distractors("kind", train)
    question = synthetic_seed_bench(train, known, 0)["questions"][0]
    assert {question[f"choice_{letter}"] for letter in "abcd"} == {"a", "b", "none of these"}
    assert len(synthetic_instructions(train, known, 2, 0)) == 12
