"""Dialogue end to end: two stages and derived questions, frozen and full."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lcl_core.common.errors import UserError
from lcl_core.evaluation.evaluate import evaluate
from lcl_core.evaluation.vlm.model import VisionLanguageModel, build_vlm

STAGE = {"epochs": 1, "batch_size": 16, "lr": 3e-3}


@pytest.fixture
def talk_run(new_run, taught_language_model_dir):
    """Makes a run about dialogue; keyword arguments are fields of the dialogue spec, or ``spec`` of the run's."""

    def make(name="run", spec=None, **fields):
        own = {
            "language_model": {"path": str(taught_language_model_dir)}, "align": STAGE, "instruct": STAGE,
            "derived": {"label": "colour"}, "decoding": {"max_new_tokens": 4}, **fields,
        }  # fmt: skip
        return new_run(name, tasks=["dialogue"], dialogue=own, **{"untrained_baseline": False, **(spec or {})})

    return make


@pytest.fixture
def built_models(monkeypatch):
    built: list[VisionLanguageModel] = []

    def watched(*args, **kwargs):
        built.append(build_vlm(*args, **kwargs))
        return built[-1]

    monkeypatch.setattr("lcl_core.evaluation.tasks.dialogue.build_vlm", watched)
    return built


def sheet(run_dir, name):
    return [json.loads(line) for line in (run_dir.artifacts / "records" / f"{name}.jsonl").open()]


def numbers(result):
    return {(row["variant"], row["metric"]): row for row in result["rows"]}


def test_derived_questions_are_asked_and_scored_beside_chance(talk_run):
    run_dir = talk_run()
    rows = numbers(evaluate(run_dir))
    # twelve images, one without a label and one with a label that training lacks
    assert rows["derived pope", "accuracy"]["count"] == 2 * 10
    assert rows["derived pope", "accuracy"]["chance"] == 0.5
    assert rows["derived pope", "F1"]["majority"] == pytest.approx(2 / 3)  # "yes" to everything
    assert all(low <= row["value"] <= high for row in rows.values() for low, high in [row["interval"]])
    stored = sheet(run_dir, "dialogue-test-derived_pope-frozen-trained")
    assert len(stored) == 20
    assert {"id", "image", "text", "truth", "answer"} <= set(stored[0])
    assert len(json.loads((run_dir.artifacts / "derived_instructions.json").read_text())) == 80
    curves = json.loads((run_dir.artifacts / "curves.json").read_text())
    assert [(curve["variant"], len(curve["loss"])) for curve in curves] == [("align", 5), ("instruct", 5)]


def test_stage_two_goes_on_from_stage_one(talk_run, monkeypatch):
    seen: list[tuple[str, torch.Tensor, set[int]]] = []
    train = VisionLanguageModel.train

    def watched(vlm, split, examples, spec, field):
        before = vlm.llava.projector.leave.weight.detach().clone()
        losses = train(vlm, split, examples, spec, field)
        after = vlm.llava.projector.leave.weight.detach().clone()
        seen.append((field, torch.stack([before, after]), {len(tokens.ids) for tokens, _ in examples}))
        return losses

    monkeypatch.setattr(VisionLanguageModel, "train", watched)
    evaluate(talk_run())
    (first, one, captions), (second, two, talks) = seen
    assert (first, second) == ("dialogue.align", "dialogue.instruct")
    assert torch.equal(one[1], two[0])
    assert not torch.equal(one[0], one[1])
    assert not torch.equal(two[0], two[1])
    assert max(captions) < min(talks)  # captions stand alone, conversations in the model's template


def test_frozen_leaves_both_models_as_they_are_and_full_teaches_the_encoder_in_stage_two(
    talk_run, built_models, taught_language_model_dir, encoder_dir
):
    evaluate(talk_run(spec={"transfer": ["frozen", "full"]}))
    frozen, full = built_models
    stored = load_file(taught_language_model_dir / "model.safetensors")
    for vlm in (frozen, full):
        now = vlm.llava.language.model.state_dict()
        assert all(torch.equal(now[name], value.to(now[name].dtype)) for name, value in stored.items())
    assert frozen.source.trained_encoder is None
    assert full.source.trained_encoder is not None
    before = load_file(encoder_dir / "model.safetensors")["visual.conv1.weight"]
    assert not torch.equal(before, full.source.trained_encoder.module.state_dict()["conv1.weight"])


def test_conversations_of_a_file_replace_the_derived_and_questions_may_be_left_out(
    talk_run, tmp_path, taught_language_model_dir
):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (20, 20), (60 * number, 0, 0)).save(folder / f"{number}.png")
    talk = [{"from": "human", "value": "<image>\nRed?"}, {"from": "gpt", "value": "yes"}]
    entries = [{"id": n, "image": f"{n}.png", "conversations": talk * 2} for n in range(3)]
    (tmp_path / "mix.json").write_text(json.dumps([*entries, {"id": 9, "conversations": talk}]))
    fields = {
        "instructions": {"path": str(tmp_path / "mix.json"), "images": str(folder)},
        "language_model": {"path": str(taught_language_model_dir), "train": True, "lr": 1e-2},
        "instruct": {**STAGE, "epochs": 10, "batch_size": 4},
        "spec": {"transfer": ["full"]},
    }
    asked = talk_run(**fields)
    evaluate(asked)
    assert len(sheet(asked, "dialogue-test-derived_pope-full-trained")) == 20
    losses = {curve["variant"]: curve["loss"] for curve in json.loads((asked.artifacts / "curves.json").read_text())}
    assert len(losses["instruct"]) == 10, "one batch of the file's four conversations an epoch"
    assert losses["instruct"][-1] < losses["instruct"][0]
    assert not (asked.artifacts / "derived_instructions.json").exists()
    silent = talk_run("silent", derived=None, **fields)
    assert evaluate(silent)["rows"] == []
    assert (silent.artifacts / "bridges" / "dialogue-full" / "bridge.json").is_file()


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"train_split": "test"}, "invalid_value", "splits.0"),
        ({"derived": {"label": "shape"}}, "invalid_value", "dialogue.derived.label"),
        ({"train_dataset": "elsewhere"}, "not_found", "dialogue.train_dataset"),
        ({"language_model": {"path": "/no/such"}}, "language_model_unreadable", "dialogue.language_model.path"),
        ({"align": {"search": {"lr": [1e-3]}}}, "bad_spec", "dialogue.align.search"),
        ({"instruct": {"transfer": ["full"]}}, "bad_spec", "dialogue.instruct.transfer"),
        ({"derived": None}, "no_data", "dialogue.instructions"),
    ],
)  # fmt: skip
def test_bad_requests_say_where(talk_run, fields, code, field):
    with pytest.raises(UserError) as caught:
        evaluate(talk_run(**fields))
    assert (caught.value.code, caught.value.field) == (code, field)
