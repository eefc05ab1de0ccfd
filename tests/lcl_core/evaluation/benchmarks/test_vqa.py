"""VQAv2 and VizWiz: normalisation and the accuracy of ten people, by hand from the published rule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lcl_core.common.errors import UserError
from lcl_core.evaluation.benchmarks import BENCHMARKS
from lcl_core.evaluation.benchmarks.vqa import consensus_accuracy, normalize_answer
from tests.lcl_core.evaluation.benchmarks.paired import pair_answers


@pytest.mark.parametrize(
    ("said", "compared"),
    [
        ("Yes.", "yes"),
        ("a man and the dog", "man and dog"),
        ("Two", "2"),
        ("none", "0"),
        ("ten dogs", "10 dogs"),
        ("dont know", "don't know"),
        ("it isnt", "it isn't"),
        ("couldnt've", "couldn't've"),
        ("1,000", "1000"),  # a comma between digits is removed
        ("red, white", "red white"),  # touches a space: removed
        ("red,white", "red white"),  # does not: becomes a space
        ("10:30", "10:30"),  # a colon is none of the signs
        ("3.5", "3.5"),
        ("u.s.", "us"),
        ("5.", "5"),
        ("t-shirt", "t shirt"),
        ("1,000 t-shirts", "1000 tshirts"),  # a comma between digits takes every other sign along
        ("what?!", "what"),
        (" a\tbig\nbus ", "big bus"),
    ],
)
def test_normalisation(said: str, compared: str) -> None:
    assert normalize_answer(said) == compared


@pytest.mark.parametrize(
    ("same", "accuracy"),
    [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)],
)
def test_accuracy_over_the_ten_subsets(same: int, accuracy: float) -> None:
    """With 3 alike: the 3 subsets without one of them hold 2 (2/3), the other 7 hold 3 (1): (3 x 2/3 + 7) / 10."""
    people = ["yes"] * same + [f"other {number}" for number in range(10 - same)]
    assert consensus_accuracy("Yes.", people) == pytest.approx(accuracy)


def test_people_lose_their_punctuation_only_where_they_differ() -> None:
    assert consensus_accuracy("t shirt", ["t-shirt"] * 9 + ["shirt"]) == 1
    assert consensus_accuracy("t-shirt", ["t-shirt"] * 10) == 0  # as the official program has it


def vqa_files(folder: Path, questions: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> Path:
    (folder / "v2_OpenEnded_mscoco_val2014_questions.json").write_text(json.dumps({"questions": questions}))
    (folder / "v2_mscoco_val2014_annotations.json").write_text(json.dumps({"annotations": annotations}))
    return folder


def requested(number: int) -> dict[str, Any]:
    return {"question_id": number, "image_id": 42, "question": "Is it red?"}


def reported(number: int, answers: list[str], kind: str) -> dict[str, Any]:
    return {
        "question_id": number,
        "image_id": 42,
        "answer_type": kind,
        "answers": [{"answer": answer, "answer_id": place + 1} for place, answer in enumerate(answers)],
    }


def test_vqa_from_its_files(tmp_path: Path) -> None:
    vqa = BENCHMARKS["vqav2"]
    annotations = [
        reported(1, ["yes"] * 10, "yes/no"),
        reported(2, ["2"] * 2 + ["3"] * 8, "number"),
        reported(3, ["red"] * 10, "other"),
    ]
    questions = vqa.load(vqa_files(tmp_path, [requested(1), requested(2), requested(3)], annotations))
    assert (questions[0].image, questions[0].text) == ("42", "Is it red?")
    scores = vqa.score(pair_answers(questions, {"1": "Yes", "2": "two"}))
    assert scores.metrics == pytest.approx(
        {"accuracy": 1.6 / 3, "accuracy (yes/no)": 1, "accuracy (number)": 0.6, "accuracy (other)": 0}
    )
    assert scores.samples["accuracy"] == pytest.approx({"1": 1, "2": 0.6, "3": 0})
    assert scores.missing == ["3"]


def test_vqa_without_annotations_of_a_question(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="question 2 has no annotation; test splits"):
        BENCHMARKS["vqav2"].load(
            vqa_files(tmp_path, [requested(1), requested(2)], [reported(1, ["yes"] * 10, "yes/no")])
        )


@pytest.mark.parametrize("name", ["vqav2", "okvqa"])
def test_a_folder_with_every_split(tmp_path: Path, name: str) -> None:
    """All official files of VQAv2 and OK-VQA in one folder: the path names the questions of a split."""
    for prefix, answer in (("v2_", "yes"), ("", "no")):
        for split in ("train2014", "val2014", "test2015", "test-dev2015"):
            file = tmp_path / f"{prefix}OpenEnded_mscoco_{split}_questions.json"
            file.write_text(json.dumps({"questions": [requested(1)]}))
        for split in ("train2014", "val2014"):
            annotation = reported(1, [f"{answer} {split}"] * 10, "other")
            file = tmp_path / f"{prefix}mscoco_{split}_annotations.json"
            file.write_text(json.dumps({"annotations": [annotation]}))
    prefix, answer = ("v2_", "yes") if name == "vqav2" else ("", "no")
    for split in ("train2014", "val2014"):
        (question,) = BENCHMARKS[name].load(tmp_path / f"{prefix}OpenEnded_mscoco_{split}_questions.json")
        assert question.truth[0] == f"{answer} {split}"
    with pytest.raises(UserError, match="name one of them as the path"):
        BENCHMARKS[name].load(tmp_path)
    with pytest.raises(UserError, match="test splits have none") as caught:
        BENCHMARKS[name].load(tmp_path / f"{prefix}OpenEnded_mscoco_test2015_questions.json")
    assert (caught.value.code, str(caught.value.file).endswith("test2015_questions.json")) == (
        "benchmark_unreadable", True,
    )  # fmt: skip
    with pytest.raises(UserError, match=r"path is that of a \*questions.json"):
        BENCHMARKS[name].load(tmp_path / f"{prefix}mscoco_val2014_annotations.json")


def test_annotations_of_another_name_are_found_by_their_split(tmp_path: Path) -> None:
    (tmp_path / "my_val_questions.json").write_text(json.dumps({"questions": [requested(1)]}))
    for split in ("val", "train"):
        entries = {"annotations": [reported(1, [split] * 10, "other")]}
        (tmp_path / f"answers_{split}_annotations.json").write_text(json.dumps(entries))
    (question,) = BENCHMARKS["vqav2"].load(tmp_path)
    assert question.truth[0] == "val"


def test_textvqa(tmp_path: Path) -> None:
    file = tmp_path / "TextVQA_0.5.1_val.json"
    fields = {"image_id": "003a8ae2ef43b901", "question": "What brand?", "image_classes": ["Camera"], "set_name": "val"}
    entries = [
        {**fields, "question_id": 34602, "answers": ["nous les gosses"] * 2 + ["dakota"] * 8},
        {**fields, "question_id": 34603, "answers": ["copenhagen"] * 10},
    ]
    file.write_text(json.dumps({"dataset_type": "val", "dataset_name": "textvqa", "data": entries}))
    textvqa = BENCHMARKS["textvqa"]
    questions = textvqa.load(tmp_path)
    assert (questions[0].id, questions[0].image, questions[0].text) == ("34602", "003a8ae2ef43b901", "What brand?")
    assert "003a8ae2ef43b901.jpg" in textvqa.image_names(questions[0])
    scores = textvqa.score(pair_answers(questions, {"34602": "Nous les gosses", "34603": "Copenhagen."}))
    assert scores.metrics == pytest.approx({"accuracy": (0.6 + 1) / 2})
    test = {"data": [{**fields, "question_id": 1}]}
    file.write_text(json.dumps(test))
    with pytest.raises(UserError, match="entry 0 has no 'answers'; test splits") as caught:
        textvqa.load(file)
    assert (caught.value.code, caught.value.file) == ("benchmark_unreadable", str(file))


def test_a_question_that_nobody_answered_is_refused_when_the_files_are_read(tmp_path: Path) -> None:
    folder = vqa_files(
        tmp_path, [requested(1), requested(2)], [reported(1, ["yes"], "yes/no"), reported(2, [], "other")]
    )
    with pytest.raises(UserError, match="question 2 has no human answers") as caught:
        BENCHMARKS["vqav2"].load(folder)
    assert (caught.value.code, Path(str(caught.value.file)).name) == (
        "benchmark_unreadable", "v2_mscoco_val2014_annotations.json",
    )  # fmt: skip
    file = tmp_path / "val.json"
    file.write_text(json.dumps([vizwiz_entry("a.jpg", ["soup"], 1), vizwiz_entry("b.jpg", [], 1)]))
    with pytest.raises(UserError, match=r"question b\.jpg has no human answers") as caught:
        BENCHMARKS["vizwiz"].load(file)
    assert caught.value.file == str(file)
    entry = {"question_id": 7, "image_id": "a", "question": "What brand?", "answers": []}
    file.write_text(json.dumps({"data": [entry]}))
    with pytest.raises(UserError, match="question 7 has no human answers") as caught:
        BENCHMARKS["textvqa"].load(file)
    assert caught.value.file == str(file)


def vizwiz_entry(image: str, answers: list[str], answerable: int) -> dict[str, Any]:
    return {
        "image": image,
        "question": "What is this?",
        "answers": [{"answer": answer, "answer_confidence": "yes"} for answer in answers],
        "answer_type": "other" if answerable else "unanswerable",
        "answerable": answerable,
    }


def test_vizwiz(tmp_path: Path) -> None:
    file = tmp_path / "val.json"
    entries = [
        vizwiz_entry("a.jpg", ["soup"] * 9 + ["can"], 1),
        vizwiz_entry("b.jpg", ["unanswerable"] * 10, 0),
        vizwiz_entry("c.jpg", ["unanswerable"] * 7 + ["blue"] * 3, 0),
        vizwiz_entry("d.jpg", ["dog"] * 10, 1),
    ]
    file.write_text(json.dumps(entries))
    vizwiz = BENCHMARKS["vizwiz"]
    answers = {"a.jpg": "Soup.", "b.jpg": "Unanswerable", "c.jpg": "blue"}
    scores = vizwiz.score(pair_answers(vizwiz.load(file), answers))
    assert scores.metrics["accuracy"] == pytest.approx((1 + 1 + 0.9 + 0) / 4)
    assert scores.metrics["accuracy (answerable)"] == pytest.approx(1 / 2)
    assert scores.metrics["accuracy (unanswerable)"] == pytest.approx(1.9 / 2)
    assert scores.metrics["answerability"] == pytest.approx(2 / 4)  # c said a colour, d said nothing
    assert scores.missing == ["d.jpg"]
