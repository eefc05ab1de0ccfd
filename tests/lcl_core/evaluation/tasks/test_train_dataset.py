"""Heads trained on one dataset and tested on another: the figures are those of both splits in one dataset."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lcl_core.common.errors import UserError
from lcl_core.evaluation.evaluate import evaluate

VALIDATION = 8  # of the training images

PROBE: dict[str, Any] = {
    "labels": ["colour"], "epochs": 3, "batch_size": 16, "search": {"lr": [1e-5, 1e-2]}, "validation_split": "val",
}  # fmt: skip
CASES = {
    "classification": PROBE
    | {"heads": ["attentive", "linear", "knn"], "l2": [1e4, 1.0], "neighbours": [5]},
    "tuned_retrieval": {"epochs": 1, "batch_size": 16, "search": {"lr": [1e-5, 5e-3]}, "validation_split": "val"},
}  # fmt: skip


def read_lines(corpus):
    return [json.loads(line) for line in (corpus / "pairs.jsonl").read_text().splitlines()]


def write_lines(corpus, lines):
    (corpus / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def whole(tmp_path, squares):
    """The squares with a split val."""
    corpus = Path(shutil.copytree(squares, tmp_path / "whole"))
    write_lines(
        corpus, [{**line, **({"split": "val"} if n < VALIDATION else {})} for n, line in enumerate(read_lines(corpus))]
    )
    return corpus


@pytest.fixture
def parts(tmp_path, whole):
    """Training and validation images as one dataset, tested ones as another, which has wrong images and labels too.

    The wrong ones have the names and the splits of the right ones of the first dataset.
    """
    training = Path(shutil.copytree(whole, tmp_path / "training"))
    tested = Path(shutil.copytree(whole, tmp_path / "tested"))
    lines = read_lines(whole)
    write_lines(training, [line for line in lines if line["split"] != "test"])
    for line in lines:
        if line["split"] != "test":
            Image.new("RGB", (18, 18), (0, 0, 0)).save(tested / "images" / line["image"])
            line["labels"] = {"colour": "red" if len(line["captions"][0]) % 2 else "blue"}
            line["captions"] = ["nothing", "of use"]
    write_lines(tested, lines)
    return training, tested


@pytest.mark.parametrize("task", CASES)
def test_the_figures_are_those_of_one_dataset_with_both_splits(new_run, whole, parts, task):
    training, tested = parts
    fields: dict[str, Any] = {"tasks": [task], "untrained_baseline": False}
    together = new_run("together", corpus=whole, **fields, **{task: CASES[task]})
    apart = new_run(
        "apart", corpus=tested, datasets={"teacher": str(training)}, **fields,
        **{task: CASES[task] | {"train_dataset": "teacher"}},
    )  # fmt: skip
    expected, found = evaluate(together), evaluate(apart)
    assert found["rows"] == expected["rows"]
    assert expected["rows"]
    choices = [json.loads((each.artifacts / "choice.json").read_text()) for each in (together, apart)]
    assert choices[0] == choices[1]
    assert choices[0][0]["held_out"] == {"split": "val", "pictures": VALIDATION, "of": VALIDATION}


def test_a_tested_split_may_have_the_name_of_the_training_split(new_run, parts):
    """The evaluated dataset has a split train of its own, which nothing learns from."""
    training, tested = parts
    write_lines(tested, [{**line, "split": "train"} for line in read_lines(tested) if line["split"] == "test"])
    own = {**PROBE, "search": {}, "train_dataset": "teacher"}
    result = evaluate(
        new_run(
            corpus=tested, datasets={"teacher": str(training)}, tasks=["classification"], splits=["train"],
            classification=own, untrained_baseline=False,
        )
    )  # fmt: skip
    rows = {row["metric"]: row for row in result["rows"]}
    assert (rows["acc@1"]["split"], rows["acc@1"]["count"]) == ("train", 10)


@pytest.mark.parametrize("task", CASES)
def test_an_unknown_dataset_is_named(new_run, task):
    with pytest.raises(UserError) as caught:
        evaluate(new_run(tasks=[task], **{task: {"train_dataset": "elsewhere"} | CASES[task]}))
    assert (caught.value.code, caught.value.field) == ("not_found", f"{task}.train_dataset")
