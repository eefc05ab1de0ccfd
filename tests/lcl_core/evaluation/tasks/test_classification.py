"""Classification as a run: frozen and full, choices that never see the tested images, the same number again."""

import json
import shutil
from typing import Any

import pytest

from lcl_core.common.errors import UserError
from lcl_core.encoders.lcl import LCLEncoder
from lcl_core.evaluation.evaluate import evaluate
from lcl_core.evaluation.tasks.base import EvalContext

SEARCH = {"labels": ["colour"], "epochs": 3, "batch_size": 16, "search": {"lr": [1e-5, 1e-2]}}


def rows_of(result):
    return {(row["transfer"], row["metric"]): row for row in result["rows"]}


def with_other_test_labels(squares, folder):
    """The same corpus, the tested images' labels turned round."""
    shutil.copytree(squares, folder)
    lines = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    others = {"red": "green", "green": "blue", "blue": "grey", "grey": "red"}
    for line in lines:
        if line["split"] == "test":
            line["labels"] = {key: others.get(label, label) for key, label in line["labels"].items()}
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_both_protocols_stand_side_by_side_and_again_give_the_same(new_run):
    fields: dict[str, Any] = {"tasks": ["classification"], "transfer": ["full", "frozen"]}
    first = evaluate(new_run("a", **fields))
    rows = rows_of(first)
    assert {transfer for transfer, _ in rows} == {"frozen", "full"}
    assert rows["frozen", "acc@1"]["value"] > 0.6
    assert rows["full", "acc@1"]["value"] > 0.6
    # The encoder has the weights that the untrained twin starts from; both learn alike.
    assert all(row["value"] == row["untrained"] for row in first["rows"])


def test_the_choice_is_on_file_and_the_rate_that_learns_is_chosen(new_run):
    run_dir = new_run(tasks=["classification"], classification=SEARCH, untrained_baseline=False)
    evaluate(run_dir)
    (entry,) = json.loads((run_dir.artifacts / "choice.json").read_text())
    assert entry["chosen"] == {"lr": 1e-2}
    assert [trial["lr"] for trial in entry["tried"]] == [1e-5, 1e-2]
    assert entry["held_out"] == {"split": "train", "pictures": 4, "of": 40}
    assert (entry["task"], entry["variant"], entry["transfer"], entry["encoder"]) == (
        "classification", "colour", "frozen", "trained",
    )  # fmt: skip
    (curve,) = json.loads((run_dir.artifacts / "curves.json").read_text())
    assert len(curve["loss"]) == 3 * 3  # of the last training, on all 40 images


def test_the_choice_never_looks_at_tested_images(new_run, squares, tmp_path):
    own = {**SEARCH, "heads": ["attentive", "linear"], "l2": [1e4, 1.0]}
    fields = {"tasks": ["classification"], "classification": own, "untrained_baseline": False}
    honest, poisoned = (
        new_run("a", **fields),
        new_run("b", corpus=with_other_test_labels(squares, tmp_path / "p"), **fields),
    )
    before, after = evaluate(honest), evaluate(poisoned)
    assert before["rows"] != after["rows"]
    assert (honest.artifacts / "choice.json").read_text() == (poisoned.artifacts / "choice.json").read_text()


@pytest.mark.parametrize(("split", "word"), [("test", "examined"), ("train", "learnt from")])
def test_nothing_is_chosen_on_a_split_that_is_used_otherwise(new_run, split, word):
    with pytest.raises(UserError, match=word) as caught:
        evaluate(new_run(tasks=["classification"], classification={**SEARCH, "validation_split": split}))
    assert (caught.value.code, caught.value.field) == ("invalid_value", "classification.validation_split")


HEADS: dict[str, Any] = {
    "labels": ["colour"], "epochs": 4, "batch_size": 16, "heads": ["attentive", "linear", "knn"],
    "l2": [1e4, 1.0, 1e-4], "neighbours": [1, 5],
}  # fmt: skip
VARIANTS = ["colour", "colour, linear", "colour, knn 1", "colour, knn 5"]


def test_pooled_heads_need_no_patch_features_and_can_be_repeated(new_run, monkeypatch):
    fields: dict[str, Any] = {
        "tasks": ["classification"], "classification": {**HEADS, "heads": ["knn", "linear"]},
        "untrained_baseline": False,
    }  # fmt: skip
    monkeypatch.setattr(EvalContext, "get_patch_features", lambda *_: pytest.fail("patch features are not needed"))
    first = evaluate(new_run("a", **fields))
    assert [row["variant"] for row in first["rows"][::3]] == [*VARIANTS[2:], VARIANTS[1]]
    assert evaluate(new_run("b", **fields)) == first


def test_full_transfer_beside_pooled_heads_trains_the_attentive_one(new_run):
    fields: dict[str, Any] = {"classification": {**HEADS, "heads": ["attentive", "knn"], "epochs": 1}}
    result = evaluate(new_run(tasks=["classification"], transfer=["full", "frozen"], **fields))
    assert [(row["transfer"], row["variant"]) for row in result["rows"][::3]] == [
        ("full", "colour"), *(("frozen", variant) for variant in ("colour", *VARIANTS[2:])),
    ]  # fmt: skip


def test_more_neighbours_than_training_images_are_refused(new_run):
    with pytest.raises(UserError, match="41 neighbours are more than the 40 training images") as caught:
        evaluate(new_run(tasks=["classification"], classification={**HEADS, "heads": ["knn"], "neighbours": [5, 41]}))
    assert (caught.value.code, caught.value.field) == ("no_data", "classification.neighbours.1")


def test_an_encoder_without_pooled_latents_is_refused_by_pooled_heads(new_run, monkeypatch):
    missing = property(lambda encoder: None, lambda encoder, value: None)
    monkeypatch.setattr(LCLEncoder, "embed_dim", missing, raising=False)
    with pytest.raises(UserError, match="no pooled latents") as caught:
        evaluate(new_run(tasks=["classification"], classification=HEADS))
    assert (caught.value.code, caught.value.field) == ("unsupported", "tasks")
