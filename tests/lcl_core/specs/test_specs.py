"""The vocabulary: presets, bounds, and errors that name the field."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from lcl_core.common.errors import UserError
from lcl_core.jobs import JOB_KINDS
from lcl_core.specs.base import presets
from lcl_core.specs.evaluate import EvaluateSpec, TuningSpec, task_settings
from lcl_core.specs.parsing import (
    SPECS,
    data_paths,
    dataset_fields,
    datasets_of,
    encoder_fields,
    encoders_of,
    parse_spec,
    spec_hash,
)
from lcl_core.specs.pretrain import METHODS, ObjectiveSpec, PretrainSpec


def test_a_preset_fills_in_what_is_not_given() -> None:
    preset = presets("pretrain")["sample"]
    spec = parse_spec("pretrain", {"preset": "sample", "steps": 7, "model": {"text_layers": 1}})
    assert isinstance(spec, PretrainSpec)
    assert spec.steps == 7
    assert spec.model.text_layers == 1
    assert spec.model.vision_layers == preset["model"]["vision_layers"]


SMALLEST: dict[str, dict[str, str]] = {
    "pretrain": {},
    "evaluate": {"encoder": "enc_1"},
    "index": {"encoder": "enc_1", "collection": "things"},
    "validate": {"dataset": "sample"},
    "convert": {"path": "/data/mine", "name": "mine"},
    "match": {"dataset": "sample", "encoder": "enc_1", "name": "matched"},
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in SPECS for name in sorted(presets(kind))])
def test_every_preset_is_a_spec(kind: str, name: str) -> None:
    assert parse_spec(kind, {**SMALLEST[kind], "preset": name})


@pytest.mark.parametrize("kind", sorted(SPECS))
def test_a_parsed_spec_parses_to_itself(kind: str) -> None:
    spec = parse_spec(kind, SMALLEST[kind])
    assert parse_spec(kind, spec.model_dump(mode="json")) == spec


def test_labels_splits_and_sources_are_named_as_a_corpus_writes_them() -> None:
    own = {"labels": ["Class Name", "Größe"], "train_split": "Train 1"}
    spec = {
        "encoder": "e", "splits": ["Test (A)"], "source": "../x", "exclude": {"Class Name": ["x"]},
        "classification": {**own, "validation_split": "à voir"}, "few_shot": own,
        "zero_shot_classification": {"labels": own["labels"], "names": "as_written"},
        "dialogue": {"derived": {"label": "Class Name"}},
    }  # fmt: skip
    parsed = parse_spec("evaluate", spec)
    assert parse_spec("evaluate", parsed.model_dump(mode="json")) == parsed


@pytest.mark.parametrize(
    ("kind", "spec", "field", "word"),
    [
        ("pretrain", {"optimizer": {"lr": -1}}, "optimizer.lr", "greater than 0"),
        ("pretrain", {"optimizer": {"lr": float("nan")}}, "optimizer.lr", "finite"),
        ("pretrain", {"optimizer": {"betas": [0.9, 1.0]}}, "optimizer.betas.1", "less than 1"),
        ("pretrain", {"model": {"patch_size": 7}}, "model", "multiple of patch_size"),
        ("pretrain", {"model": {"image_size": 512, "patch_size": 4}}, "model", "context_length"),
        ("pretrain", {"preset": "nothing"}, None, "choose from"),
        ("pretrain", {"stpes": 3}, "stpes", "did you mean 'steps'"),
        ("pretrain", {"data": {"sources": []}}, "data.sources", "at least 1"),
        ("pretrain", {"data": {"sources": [{"dataset": "../x"}]}}, "data.sources.0.dataset", "a name starts with"),
        ("pretrain", [], None, "dictionary"),
        ("pretrain", {"engine": {"shard_processes": 2}}, "engine.shard_processes", "take fsdp2"),
        (
            "pretrain",
            {"engine": {"strategy": "fsdp2", "nodes": 2, "processes": 3, "shard_processes": 4}},
            "engine.shard_processes",
            "6 processes .* cannot form groups of 4: take a divisor of 6",
        ),
        ("pretrain", {"objective": {"name": "magic"}}, "objective.name", "'lcl', 'clip'"),
        ("pretrain", {"objective": {"name": "clip"}}, "data.sources.0.view", "pairs or matched_pairs"),
        (
            "pretrain",
            {"objective": {"name": "blip2"}, "data": {"sources": [{"view": "pairs"}, {}]}},
            "data.sources.1.view",
            "or choose lcl, beit3",
        ),
        ("pretrain", {"objective": {"name": "emu"}, "numerics": "official"}, "numerics", "lcl alone"),
        ("pretrain", {"model": {"vision": "cnn"}}, "model.vision", "convnext, resnet, and timm:"),
        ("pretrain", {"model": {"vision": "timm:local-dir:/etc"}}, "model.vision", "such as timm:resnet18"),
        (
            "pretrain", {"model": {"vision": "hybrid", "image_size": 63, "patch_size": 21}},
            "model.patch_size", "must be even; or choose another model.vision",
        ),
        (
            "pretrain", {"model": {"vision": "convnext", "image_size": 48, "patch_size": 12}},
            "model.patch_size", "must be 4, 8, 16",
        ),
        (
            "pretrain", {"model": {"vision": "convnext", "vision_width": 210}}, "model.vision_width",
            "a multiple of 4; or choose",
        ),
        ("pretrain", {"model": {"vision": "convnext", "vision_layers": 2}}, "model.vision_layers", "at least 3"),
        ("pretrain", {"model": {"vision": "convnext"}, "patch_drop": 0.5}, "patch_drop", "to vit or hybrid"),
        (
            "pretrain", {"model": {"vision": "timm:resnet18"}, "objective": {"name": "beit3"}},
            "model.vision", "take vit or hybrid, or another objective",
        ),
        ("pretrain", {"model": {"vision": "hybrid"}, "numerics": "official"}, "model.vision", "vit alone"),
        ("pretrain", {"objective": {"image_mask_ratio": 1}}, "objective.image_mask_ratio", "less than 1"),
        ("pretrain", {"objective": {"matching_weight": -1}}, "objective.matching_weight", "greater than or equal"),
        ("evaluate", {}, "encoder", "required"),
        ("evaluate", {"encoder": "e", "tasks": ["cooking"]}, "tasks.0", "retrieval"),
        ("evaluate", {"encoder": "e", "preset": "nothing"}, None, "choose from"),
        ("evaluate", {"encoder": "e", "classification": {"search": {"lr": []}}}, "classification.search", "search.lr"),
        ("evaluate", {"encoder": "e", "classification": {"search": {"lr": [9.0]}}}, "classification", "search.lr"),
        (
            "evaluate", {"encoder": "e", "classification": {"search": {"speed": [1]}}},
            "classification.search.speed.[key]", "'lr'",
        ),
        ("evaluate", {"encoder": "e", "few_shot": {"shots": [4, 1]}}, "few_shot", "rise"),
        ("evaluate", {"encoder": "e", "few_shot": {"search": {"epochs": [1, 2]}}}, "few_shot", "steps is set"),
        ("evaluate", {"encoder": "e", "zero_shot_classification": {"templates": ["a photo"]}},
         "zero_shot_classification.templates.0", "where the name of the class goes"),
        ("evaluate", {"encoder": "e", "splits": [""]}, "splits.0", "at least 1 character"),
        ("evaluate", {"encoder": "e", "source": "a\nb"}, "source", "line breaks"),
        ("evaluate", {"encoder": "e", "few_shot": {"labels": ["x" * 101]}}, "few_shot.labels.0", "at most 100"),
        ("evaluate", {"encoder": "e", "exclude": {"a\u202eb": ["x"]}}, "exclude.a\u202eb.[key]", "direction"),
        ("index", {"encoder": "e"}, "collection", "required"),
        ("cook", {}, "kind", "choose from"),
    ],
)  # fmt: skip
def test_bad_specs_name_the_field(kind: str, spec: object, field: str | None, word: str) -> None:
    with pytest.raises(UserError, match=word) as caught:
        parse_spec(kind, spec)
    assert caught.value.field == field


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b", "\ude00"])
@pytest.mark.parametrize(
    ("kind", "spec", "field"),
    [
        ("validate", lambda text: {"path": "/x", "options": {"a": ["b", text]}}, "options"),
        ("validate", lambda text: {"path": "/x", "options": {text: 1}}, "options"),
        ("validate", lambda text: {"path": f"/{text}"}, "path"),
        ("evaluate", lambda text: {"encoder": "e", "captioning": {"prompt": text}}, "captioning.prompt"),
        (
            "evaluate",
            lambda text: {"encoder": "e", "zero_shot_classification": {"class_names": {"a": text}}},
            "zero_shot_classification.class_names",
        ),
        ("pretrain", lambda text: {"model": {"text_init": f"/{text}"}}, "model.text_init"),
    ],
)
def test_a_text_that_no_database_stores_is_refused(
    kind: str, spec: Callable[[str], dict[str, Any]], field: str, text: str
) -> None:
    with pytest.raises(UserError) as caught:
        parse_spec(kind, spec(text))
    assert (caught.value.code, caught.value.field) == ("bad_spec", field)
    parse_spec(kind, spec("a\U0001f600b"))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("view", ["interleaved", "pairs", "matched_pairs"])
def test_every_method_takes_pairs_and_some_take_documents(name: str, view: str) -> None:
    spec = {"objective": {"name": name}, "data": {"sources": [{"view": view}]}}
    if view == "interleaved" and name in ("clip", "coca", "blip2"):
        with pytest.raises(UserError):
            parse_spec("pretrain", spec)
    else:
        assert parse_spec("pretrain", spec)


def test_weights_are_the_methods_own_unless_given() -> None:
    assert ObjectiveSpec().weights == {"contrastive": 0.1, "generation": 1.0}
    assert ObjectiveSpec(name="coca").weights == {"contrastive": 1.0, "generation": 2.0}
    given = ObjectiveSpec(name="blip2", contrastive_weight=0.0, matching_weight=3, regression_weight=9)
    assert given.weights == {"contrastive": 0.0, "generation": 1.0, "matching": 3.0}


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"model": {"freeze": ["vision", "pooler", "text", "head"]}}, "model.freeze"),
        ({"model": {"freeze": ["text", "pooler", "vision"]}, "objective": {"generation_weight": 0}}, "model.freeze"),
        ({"model": {"freeze": ["text"]}, "optimizer": {"lr_scale": {"text": 0.1}}}, "optimizer.lr_scale"),
        ({"model": {"freeze": ["eyes"]}}, "model.freeze.0"),
        ({"optimizer": {"lr_scale": {"text": 0}}}, "optimizer.lr_scale.text"),
        ({"optimizer": {"layer_decay": 1.1}}, "optimizer.layer_decay"),
        ({"model": {"vision": "convnext", "drop_path": 0.1}}, "model.drop_path"),
    ],
)
def test_parts_that_cannot_be_frozen_or_scaled_name_the_field(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_spec("pretrain", spec)
    assert (caught.value.code, caught.value.field) == ("bad_spec", field)


def test_what_says_nothing_of_a_start_is_left_out_of_the_spec() -> None:
    plain = parse_spec("pretrain", {}).model_dump(mode="json")
    assert not {"init", "freeze", "activation", "drop_path"} & plain["model"].keys()
    assert not {"lr_scale", "layer_decay"} & plain["optimizer"].keys()
    said = {
        "model": {"init": None, "freeze": [], "activation": "gelu", "drop_path": 0},
        "optimizer": {"lr_scale": {}, "layer_decay": 1.0},
    }
    assert parse_spec("pretrain", said).model_dump(mode="json") == plain
    kept = parse_spec("pretrain", {"model": {"freeze": ["vision", "pooler", "text"]}})
    assert kept.model_dump(mode="json")["model"]["freeze"] == ["vision", "pooler", "text"]


def test_what_a_spec_reads() -> None:
    spec = parse_spec("pretrain", {"data": {"sources": [{"dataset": "a"}, {"dataset": "b"}, {"dataset": "a"}]}})
    assert datasets_of(spec) == ("a", "b")
    assert encoders_of(spec) == ()
    assert list(dataset_fields(spec)) == [f"data.sources.{place}.dataset" for place in range(3)]
    started = parse_spec("pretrain", {"model": {"init": "enc_1"}})
    assert encoder_fields(started) == {"model.init": "enc_1"}
    model = {"init": "a", "vision_init": "c"}
    taught = parse_spec("pretrain", {"model": model, "objective": {"distill": {"encoder": "b"}}})
    assert encoder_fields(taught) == {"model.init": "a", "model.vision_init": "c", "objective.distill.encoder": "b"}
    assert "distill" not in parse_spec("pretrain", {}).model_dump()["objective"]
    evaluation = EvaluateSpec(encoder="enc_1", dataset="a")
    assert (datasets_of(evaluation), encoders_of(evaluation)) == (("a",), ("enc_1",))
    assert data_paths(evaluation) == {}
    tuned = {"encoder": "enc_1", "tasks": ["tuned_retrieval"], "tuned_retrieval": {"text_encoder": "words"}}
    assert encoders_of(parse_spec("evaluate", tuned)) == ("enc_1", "words")
    assert encoder_fields(parse_spec("evaluate", tuned)) == {
        "encoder": "enc_1",
        "tuned_retrieval.text_encoder": "words",
    }
    assert encoders_of(parse_spec("evaluate", {**tuned, "tasks": ["retrieval"]})) == ("enc_1",)


@pytest.mark.parametrize(("kind", "more"), [("convert", {}), ("match", {"encoder": "e"})])
def test_what_a_job_reads_and_where_it_writes_are_its_paths(kind: str, more: dict[str, str]) -> None:
    fields = {"name": "n", "path": "/data/x", "to": "s3://bucket/x"}
    spec = parse_spec(kind, {**fields, **more})
    assert data_paths(spec) == {"path": "/data/x", "to": "s3://bucket/x"}


def test_a_tokenizer_is_a_file_for_merges_of_a_corpus() -> None:
    assert data_paths(parse_spec("pretrain", {})) == {}
    assert data_paths(parse_spec("pretrain", {"tokenizer": {"path": "/data/words"}})) == {
        "tokenizer.path": "/data/words"
    }
    for tokenizer, problem in (
        ({"path": "s3://bucket/words.json"}, "not a URL"),
        ({"path": "/data/words", "kind": "clip"}, "kind clip"),
    ):
        with pytest.raises(UserError, match=problem) as caught:
            parse_spec("pretrain", {"tokenizer": tokenizer})
        assert (caught.value.code, caught.value.field) == ("bad_spec", "tokenizer.path")


def test_fields_that_say_nothing_are_no_part_of_a_hash() -> None:
    """Specs of before there were such fields have the same hash."""
    dumped = parse_spec("pretrain", {}).model_dump(mode="json")
    assert set(dumped["tokenizer"]) == {"kind", "vocab_size"}
    assert set(dumped["data"]["sources"][0]) == {"dataset", "view", "split", "weight"}
    assert "positives" not in dumped["objective"]


def test_tasks_read_what_they_name_and_only_if_they_are_asked() -> None:
    talk = {
        "language_model": {"path": "/m"}, "train_dataset": "b",
        "instructions": [{"path": "/i.json", "images": "/i"}],
    }  # fmt: skip
    requested = {"encoder": "e", "dataset": "a", "dialogue": talk, "captioning": {"train_dataset": "c"}}
    spec = parse_spec("evaluate", {**requested, "tasks": ["dialogue"]})
    assert dataset_fields(spec) == {"dataset": "a", "dialogue.train_dataset": "b"}
    assert data_paths(spec) == {
        "dialogue.language_model.path": "/m",
        "dialogue.instructions.0.path": "/i.json", "dialogue.instructions.0.images": "/i",
    }  # fmt: skip
    other = parse_spec("evaluate", {**requested, "tasks": ["captioning"]})
    assert (dataset_fields(other)["captioning.train_dataset"], data_paths(other)) == ("c", {})
    heads = {task: {"train_dataset": task[0]} for task in ("classification", "few_shot", "tuned_retrieval")}
    others = parse_spec("evaluate", {"encoder": "e", "dataset": "a", **heads, "tasks": ["few_shot", "tuned_retrieval"]})
    assert dataset_fields(others) == {
        "dataset": "a", "few_shot.train_dataset": "f", "tuned_retrieval.train_dataset": "t",
    }  # fmt: skip


def test_nobody_is_asked_to_caption_without_a_voice() -> None:
    with pytest.raises(UserError, match="no captions are generated"):
        parse_spec("evaluate", {"encoder": "e", "captioning": {"language_model": None, "zero_shot": False}})
    with pytest.raises(UserError, match="single beam"):
        parse_spec("evaluate", {"encoder": "e", "captioning": {"decoding": {"beams": 3, "top_p": 0.9}}})


def test_a_stage_that_is_searched_and_has_a_protocol_is_refused_in_words() -> None:
    stage = {"search": {"lr": [0.1]}, "transfer": ["frozen"]}
    with pytest.raises(UserError, match="a stage has no search and no transfer of its own"):
        parse_spec("evaluate", {"encoder": "e", "dialogue": {"align": stage}})


def test_each_protocol_takes_what_concerns_it() -> None:
    spec = TuningSpec(epochs=20, full_epochs=8, search={"lr": (0.1, 0.2), "encoder_lr": (0.01,)})
    frozen, full = spec.for_protocol("frozen"), spec.for_protocol("full")
    assert (frozen.epochs, set(frozen.search)) == (20, {"lr"})
    assert (full.epochs, set(full.search)) == (8, {"lr", "encoder_lr"})
    searched = TuningSpec(epochs=20, full_epochs=8, search={"epochs": (3, 5)})
    assert searched.for_protocol("full").epochs == 20  # the search decides


def test_a_task_s_own_protocols_come_first() -> None:
    spec = EvaluateSpec(encoder="e", transfer=("full", "full", "frozen"))
    assert spec.protocols(spec.classification) == ("full", "frozen")
    assert spec.protocols(spec.few_shot) == ("frozen",)


def test_the_vocabulary_needs_no_torch() -> None:
    code = "import lcl_core.specs, lcl_core.common.run_dir, sys; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_kinds_are_those_of_the_specs() -> None:
    assert tuple(SPECS) == JOB_KINDS


def test_the_number_of_loader_processes_does_not_make_it_another_spec() -> None:
    one, other = (parse_spec("pretrain", {"data": {"workers": workers}}) for workers in (0, 8))
    assert (
        spec_hash("pretrain", one) == spec_hash("pretrain", other) == spec_hash("pretrain", parse_spec("pretrain", {}))
    )
    assert "workers" not in parse_spec("pretrain", {}).model_dump()["data"], "specs of older versions say nothing of it"


def test_the_block_order_is_another_spec_and_its_memory_is_not() -> None:
    def digest(**data: Any) -> str:
        return spec_hash("pretrain", parse_spec("pretrain", {"data": data}))

    assert digest() == digest(order="full") != digest(order="blocks")
    assert (
        digest(order="blocks") == digest(order="blocks", read_ahead_mb=100) != digest(order="blocks", window_blocks=8)
    )
    later = {"order", "block_records", "window_blocks", "read_ahead_mb"}
    assert not later & set(parse_spec("pretrain", {}).model_dump()["data"]), "specs of older versions say nothing of it"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"block_records": 64}, "block_records is for data.order blocks"),
        ({"window_blocks": 10}, "window_blocks is for data.order blocks"),
        ({"order": "blocks", "window_blocks": 1, "sources": [{}, {}]}, "2 sources need as many"),
    ],
)
def test_sizes_of_blocks_that_do_not_fit_are_refused(data: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem) as caught:
        parse_spec("pretrain", {"data": data})
    assert caught.value.field == "data"


def test_the_full_order_instead_of_a_presets_blocks_is_named_alone() -> None:
    preset = {"preset": "vit_b16_laion"}
    assert parse_spec("pretrain", preset).data.order == "blocks"  # type: ignore[union-attr]
    spec = parse_spec("pretrain", {**preset, "data": {"order": "full"}})
    assert "window_blocks" not in spec.model_dump()["data"]
    again = parse_spec("pretrain", spec.model_dump(mode="json", exclude={"preset"}))
    assert spec_hash("pretrain", again) == spec_hash("pretrain", spec)


def test_the_default_vision_tower_does_not_make_it_another_spec() -> None:
    plain, named, other = (
        parse_spec("pretrain", {"model": model}) for model in ({}, {"vision": "vit"}, {"vision": "hybrid"})
    )
    assert spec_hash("pretrain", plain) == spec_hash("pretrain", named) != spec_hash("pretrain", other)
    assert "vision" not in plain.model_dump()["model"]


@pytest.mark.parametrize(("image_size", "patch_size", "kept"), [(32, 4, 48), (48, 8, 27), (64, 8, 48)])
@pytest.mark.parametrize("vision", ["vit", "hybrid"])
def test_fine_patches_may_be_left_out(vision: str, image_size: int, patch_size: int, kept: int) -> None:
    model = {"vision": vision, "image_size": image_size, "patch_size": patch_size}
    spec = parse_spec("pretrain", {"model": model, "patch_drop": 0.25})
    assert isinstance(spec, PretrainSpec)
    assert spec.kept_patches == kept


def test_only_towers_with_heads_have_a_head_width() -> None:
    assert parse_spec("pretrain", {"model": {"vision": "timm:resnet18", "vision_width": 40, "patch_size": 8}})
    with pytest.raises(UserError, match="vision_head_width"):
        parse_spec("pretrain", {"model": {"vision": "hybrid", "vision_width": 40}})


def test_a_branch_is_another_spec_and_none_changes_no_hash() -> None:
    def of(**fields: Any) -> str:
        return spec_hash("pretrain", parse_spec("pretrain", fields))

    branch = {"run": "run_0123456789abcdef01", "step": 500}
    assert len({of(), of(branch=branch), of(branch={**branch, "step": 600})}) == 3
    assert "branch" not in parse_spec("pretrain", {}).model_dump(), "specs of older versions say nothing of it"
    with pytest.raises(UserError, match=r"above branch\.step"):
        parse_spec("pretrain", {"branch": branch, "steps": 500})


def test_a_monitor_is_another_spec_and_none_changes_no_hash() -> None:
    plain = parse_spec("pretrain", {})
    spec = parse_spec("pretrain", {"monitor": {"dataset": "held"}})
    assert "monitor" not in plain.model_dump(), "specs of older versions say nothing of it"
    assert spec_hash("pretrain", spec) != spec_hash("pretrain", plain)
    assert dataset_fields(spec) == {"data.sources.0.dataset": "sample", "monitor.dataset": "held"}


@pytest.mark.parametrize(
    ("objective", "source", "monitor", "field"),
    [
        ("lcl", {"view": "pairs"}, {"split": "train"}, "monitor.dataset"),
        ("lcl", {"view": "interleaved"}, {"view": "interleaved"}, "monitor.dataset"),
        ("lcl", {"view": "interleaved"}, {"view": "matched_pairs"}, "monitor.dataset"),
        ("lcl", {"view": "matched_pairs"}, {"view": "matched_pairs"}, "monitor.dataset"),
        ("clip", {"view": "pairs"}, {"view": "interleaved"}, "monitor.view"),
        ("flamingo", {"view": "pairs"}, {"choose": "held_out.retrieval_r5"}, "monitor.choose"),
    ],
)
def test_a_monitor_that_measures_nothing_held_out_is_refused(
    objective: str, source: dict[str, str], monitor: dict[str, str], field: str
) -> None:
    spec = {"objective": {"name": objective}, "data": {"sources": [source]}}
    assert parse_spec("pretrain", {**spec, "monitor": {"dataset": "sample"}})
    with pytest.raises(UserError) as caught:
        parse_spec("pretrain", {**spec, "monitor": {"dataset": "sample", **monitor}})
    assert (caught.value.code, caught.value.field) == ("bad_spec", field)


def test_a_monitor_may_measure_what_the_run_does_not_read() -> None:
    spec = {"data": {"sources": [{"view": "matched_pairs"}]}, "monitor": {"dataset": "sample", "split": "train"}}
    assert parse_spec("pretrain", spec), "captioned images are no documents"


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ({"contrastive_weight_to": 1.0}, "go together"),
        ({"contrastive_weight_steps": 10}, "go together"),
        ({"contrastive_weight_to": 1.0, "contrastive_weight_steps": 9, "hold_gradient_ratio": 1.0}, "give one of them"),
        ({"name": "emu", "contrastive_weight_to": 1.0, "contrastive_weight_steps": 9}, "no contrastive loss"),
        ({"name": "clip", "log_gradient_ratio": True}, "lacks one of the losses"),
        ({"contrastive_weight": 0.0, "hold_gradient_ratio": 1.0}, "above 0"),
    ],
)
def test_a_weight_that_cannot_vary_so_is_refused(objective: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        parse_spec("pretrain", {"objective": objective, "data": {"sources": [{"view": "pairs"}]}})
    assert caught.value.field == "objective"


def test_a_weight_that_varies_is_of_no_official_numerics_and_no_best_loss() -> None:
    held = {"hold_gradient_ratio": 1.0}
    with pytest.raises(UserError, match="numerics official"):
        parse_spec("pretrain", {"objective": held, "numerics": "official"})
    with pytest.raises(UserError, match="lambda changes") as caught:
        parse_spec("pretrain", {"objective": held, "monitor": {"dataset": "sample"}})
    assert caught.value.field == "monitor.choose"
    assert not {"log_gradient_ratio", *held} & parse_spec("pretrain", {}).model_dump()["objective"].keys()


def test_specs_of_before_there_were_groups_of_processes_keep_their_hash() -> None:
    assert "shard_processes" not in PretrainSpec().model_dump()["engine"]
    engine = {"strategy": "fsdp2", "nodes": 2, "processes": 2, "shard_processes": 2}
    assert PretrainSpec.model_validate({"engine": engine}).model_dump()["engine"]["shard_processes"] == 2


@pytest.mark.parametrize(
    ("fields", "field", "problem"),
    [
        ({"classification": {"heads": []}}, "classification.heads", "must not be empty"),
        ({"classification": {"heads": ["svm"]}}, "classification.heads.0", "'attentive'"),
        ({"classification": {"heads": ["knn", "knn"]}}, "classification", "name each head once"),
        ({"classification": {"knn": {"k": [20, 10]}}}, "classification.knn", "k must rise"),
        ({"classification": {"knn": {"k": [0]}}}, "classification.knn.k.0", "greater than or equal to 1"),
        ({"classification": {"linear": {"l2": [0]}}}, "classification.linear.l2.0", "greater than 0"),
        ({"few_shot": {"heads": ["knn"]}}, "few_shot.heads", "no such field"),
        (
            {"transfer": ["full"], "classification": {"heads": ["attentive", "knn"]}},
            "classification.heads", "knn is fitted on frozen features; add frozen",
        ),
        (
            {"classification": {"transfer": ["frozen", "full"], "heads": ["linear"]}},
            "classification.heads", "full transfer trains the attentive head",
        ),
    ],
)  # fmt: skip
def test_heads_that_do_not_fit_are_refused(fields: dict[str, Any], field: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem) as caught:
        parse_spec("evaluate", {"encoder": "e", **fields})
    assert caught.value.field == field


def test_heads_of_a_task_that_is_not_evaluated_need_no_protocol() -> None:
    fields = {"tasks": ["retrieval"], "transfer": ["full"], "classification": {"heads": ["knn"]}}
    assert parse_spec("evaluate", {"encoder": "e", **fields})


def test_the_settings_of_a_figure_are_those_of_its_head() -> None:
    def settings(variant: str, seed: int = 0, **own: Any) -> dict[str, Any]:
        spec = parse_spec("evaluate", {"encoder": "e", "seed": seed, "classification": own})
        return task_settings(spec.model_dump(mode="json"), "classification", "frozen", variant)

    several = {"heads": ["attentive", "linear", "knn"], "knn": {"k": [10, 20]}, "linear": {"l2": [1.0]}}
    assert settings("colour") == settings("colour", **several) != settings("colour", lr=0.1)
    assert settings("colour, linear") == settings("colour, linear", lr=0.1, heads=["linear"])
    assert settings("colour, linear") != settings("colour, linear", linear={"l2": [1.0]})
    assert settings("colour, linear") != settings("colour, linear", seed=1)
    assert settings("colour, knn 20") == settings("colour, knn 20", seed=1, lr=0.1, **several)
    assert settings("colour, knn 20") != settings("colour, knn 20", knn={"temperature": 0.1})
    for variant in ("colour", "colour, linear", "colour, knn 20"):
        elsewhere = settings(variant, train_dataset="other")
        assert elsewhere == settings(variant) | {"classification.train_dataset": "other"}
