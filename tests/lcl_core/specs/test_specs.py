"""The vocabulary: presets, bounds, and errors that name the field."""

from __future__ import annotations

import pytest

from lcl_core.common.errors import UserError
from lcl_core.specs.base import References, presets
from lcl_core.specs.evaluate import ClassificationSpec, task_settings
from lcl_core.specs.parsing import (
    SPECS,
    parse_spec,
    spec_hash,
)
from lcl_core.specs.pretrain import METHODS, ObjectiveSpec, PretrainSpec


def test_a_preset_fills_in_what_is_not_given():
    preset = presets("pretrain")["sample"]
    spec = parse_spec("pretrain", {"preset": "sample", "steps": 7, "model": {"text_layers": 1}})
    assert isinstance(spec, PretrainSpec)
    assert spec.steps == 7
    assert spec.model.text_layers == 1
    assert spec.model.vision_layers == preset["model"]["vision_layers"]


SMALLEST = {
    "pretrain": {},
    "evaluate": {"encoder": "enc_1"},
    "index": {"encoder": "enc_1", "collection": "things"},
    "validate": {"dataset": "sample"},
    "convert": {"path": "/data/mine", "name": "mine"},
    "match": {"dataset": "sample", "encoder": "enc_1", "name": "matched"},
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in SPECS for name in sorted(presets(kind))])
def test_every_preset_is_a_spec(kind, name):
    assert parse_spec(kind, {**SMALLEST[kind], "preset": name})


@pytest.mark.parametrize("kind", sorted(SPECS))
def test_a_parsed_spec_parses_to_itself(kind):
    spec = parse_spec(kind, SMALLEST[kind])
    assert parse_spec(kind, spec.model_dump(mode="json")) == spec


def test_labels_splits_and_sources_are_named_as_a_corpus_writes_them():
    own = {"labels": ["Class Name", "Größe"], "train_split": "Train 1"}
    spec = {
        "encoder": "e", "splits": ["Test (A)"], "source": "../x", "exclude": {"Class Name": ["x"]},
        "classification": {**own, "validation_split": "à voir"},
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
        ("pretrain", [], None, "object"),
        ("pretrain", {"objective": {"name": "magic"}}, "objective.name", "'lcl', 'clip'"),
        ("pretrain", {"objective": {"name": "clip"}}, "data.sources.0.view", "pairs or matched_pairs"),
        (
            "pretrain",
            {"objective": {"name": "blip2"}, "data": {"sources": [{"view": "pairs"}, {}]}},
            "data.sources.1.view",
            "or choose lcl, beit3",
        ),
        ("pretrain", {"objective": {"name": "emu"}, "numerics": "official"}, "numerics", "lcl alone"),
        ("pretrain", {"model": {"vision": "cnn"}}, "model.vision", "vit, resnet, and timm:"),
        ("pretrain", {"model": {"vision": "timm:local-dir:/etc"}}, "model.vision", "such as timm:resnet18"),
        (
            "pretrain", {"model": {"vision": "resnet", "image_size": 48, "patch_size": 12}},
            "model.patch_size", "must be 4, 8, 16",
        ),
        (
            "pretrain", {"model": {"vision": "resnet", "vision_width": 210}}, "model.vision_width",
            "a multiple of 4; or choose",
        ),
        ("pretrain", {"model": {"vision": "resnet", "vision_layers": 2}}, "model.vision_layers", "at least 3"),
        (
            "pretrain", {"model": {"vision": "timm:resnet18"}, "objective": {"name": "beit3"}},
            "model.vision", "take vit, or another objective",
        ),
        ("pretrain", {"model": {"vision": "resnet"}, "numerics": "official"}, "model.vision", "vit alone"),
        ("evaluate", {}, "encoder", "required"),
        ("evaluate", {"encoder": "e", "tasks": ["cooking"]}, "tasks.0", "retrieval"),
        ("evaluate", {"encoder": "e", "preset": "nothing"}, None, "choose from"),
        ("evaluate", {"encoder": "e", "classification": {"search": {"lr": []}}}, "classification", "search.lr"),
        ("evaluate", {"encoder": "e", "classification": {"search": {"lr": [9.0]}}}, "classification", "search.lr"),
        (
            "evaluate", {"encoder": "e", "classification": {"search": {"speed": [1]}}},
            "classification.search.speed", "'lr'",
        ),
        ("evaluate", {"encoder": "e", "classification": {"steps": 9, "search": {"epochs": [1, 2]}}},
         "classification", "steps is set"),
        ("evaluate", {"encoder": "e", "zero_shot_classification": {"templates": ["a photo"]}},
         "zero_shot_classification.templates.0", "where the name of the class goes"),
        ("evaluate", {"encoder": "e", "splits": [""]}, "splits.0", "at least 1 character"),
        ("evaluate", {"encoder": "e", "source": "a\nb"}, "source", "control characters"),
        ("evaluate", {"encoder": "e", "classification": {"labels": ["x" * 101]}},
         "classification.labels.0", "at most 100"),
        ("evaluate", {"encoder": "e", "exclude": {"a\u202eb": ["x"]}}, "exclude.a\u202eb", "direction"),
        ("index", {"encoder": "e"}, "collection", "required"),
        ("pretrain", {"data": {"order": "blocks", "window_blocks": 1, "sources": [{}, {}]}}, "data", "as many"),
        ("pretrain", {"tokenizer": {"path": "s3://bucket/words.json"}}, "tokenizer.path", "not a URL"),
        ("pretrain", {"tokenizer": {"path": "/data/words", "kind": "clip"}}, "tokenizer.path", "kind clip"),
        ("pretrain", {"model": {"context_length": 20}, "data": {"sources": [{"view": "pairs"}]}},
         "model.context_length", "take 21"),
        ("pretrain", {"model": {"freeze": ["eyes"]}}, "model.freeze.0", "'vision'"),
        ("pretrain", {"model": {"freeze": ["vision", "pooler", "text", "head"]}}, "model.freeze", "at most 3"),
        ("evaluate", {"encoder": "e", "captioning": {"language_model": None, "zero_shot": False}},
         "captioning", "no captions are generated"),
        ("evaluate", {"encoder": "e", "dialogue": {"align": {"search": {}}}}, "dialogue.align.search", "no such field"),
        ("evaluate", {"encoder": "e", "classification": {"heads": []}}, "classification.heads", "at least 1 item"),
        ("evaluate", {"encoder": "e", "classification": {"heads": ["knn", "knn"]}}, "classification", "each head once"),
        ("evaluate", {"encoder": "e", "classification": {"neighbours": [20, 10]}},
         "classification", "neighbours must rise"),
        ("evaluate", {"encoder": "e", "transfer": ["full"], "classification": {"heads": ["attentive", "knn"]}},
         "classification.heads", "knn is fitted on frozen features; add frozen"),
        ("evaluate", {"encoder": "e", "classification": {"transfer": ["frozen", "full"], "heads": ["linear"]}},
         "classification.heads", "full transfer trains the attentive head"),
        ("cook", {}, "kind", "choose from"),
    ],
)  # fmt: skip
def test_bad_specs_name_the_field(kind, spec, field, word):
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
        ("evaluate", lambda text: {"encoder": "e", "captioning": {"question": text}}, "captioning.question"),
    ],
)
def test_a_text_that_no_database_stores_is_refused(kind, spec, field, text):
    with pytest.raises(UserError) as caught:
        parse_spec(kind, spec(text))
    assert (caught.value.code, caught.value.field) == ("bad_spec", field)
    parse_spec(kind, spec("a\U0001f600b"))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("view", ["interleaved", "pairs", "matched_pairs"])
def test_every_method_takes_pairs_and_some_take_documents(name, view):
    spec = {"objective": {"name": name}, "data": {"sources": [{"view": view}]}}
    if view == "interleaved" and name in ("clip", "coca", "blip2"):
        with pytest.raises(UserError):
            parse_spec("pretrain", spec)
    else:
        assert parse_spec("pretrain", spec)


def test_weights_are_the_methods_own_unless_given():
    assert ObjectiveSpec().weights == {"contrastive": 0.1, "generation": 1.0}
    assert ObjectiveSpec(name="coca").weights == {"contrastive": 1.0, "generation": 2.0}
    given = ObjectiveSpec(name="blip2", contrastive_weight=0.0)
    assert given.weights == {"contrastive": 0.0, "generation": 1.0, "matching": 1.0}


def test_what_a_spec_reads():
    sources = {"sources": [{"dataset": "a"}, {"dataset": "b"}]}
    model, tokenizer = {"init": "a"}, {"path": "/data/words"}
    fields = {"data": sources, "model": model, "tokenizer": tokenizer}
    assert parse_spec("pretrain", {**fields, "monitor": {"dataset": "held"}}).references() == References(
        {"data.sources.0.dataset": "a", "data.sources.1.dataset": "b", "monitor.dataset": "held"},
        {"model.init": "a"},
        paths={"tokenizer.path": "/data/words"},
    )
    assert parse_spec("pretrain", {}).references() == References({"data.sources.0.dataset": "sample"})
    tuned = {"encoder": "enc_1", "tasks": ["tuned_retrieval"], "tuned_retrieval": {"text_encoder": "words"}}
    read = parse_spec("evaluate", tuned).references()
    assert read == References({"dataset": "sample"}, {"encoder": "enc_1", "tuned_retrieval.text_encoder": "words"})
    assert read.further_encoders == {"tuned_retrieval.text_encoder": "words"}
    assert not parse_spec("evaluate", {**tuned, "tasks": ["retrieval"]}).references().further_encoders
    for mode, collections in (("add", {"collection": "c"}), ("replace", {})):
        index = parse_spec("index", {"encoder": "e", "collection": "c", "mode": mode})
        assert index.references() == References({"dataset": "sample"}, {"encoder": "e"}, collections)


@pytest.mark.parametrize(("kind", "more"), [("convert", {}), ("match", {"encoder": "e"})])
def test_what_a_job_reads_and_where_it_writes_are_its_paths(kind, more):
    fields = {"name": "n", "path": "/data/x", "to": "s3://bucket/x"}
    spec = parse_spec(kind, {**fields, **more})
    assert spec.references().paths == {"path": "/data/x", "to": "s3://bucket/x"}


def test_tasks_read_what_they_name_and_only_if_they_are_asked():
    talk = {
        "language_model": {"path": "/m"}, "train_dataset": "b",
        "instructions": {"path": "/i.json", "images": "/i"},
    }  # fmt: skip
    requested = {"encoder": "e", "dataset": "a", "dialogue": talk, "captioning": {"train_dataset": "c"}}
    spec = parse_spec("evaluate", {**requested, "tasks": ["dialogue"]})
    assert spec.references().datasets == {"dataset": "a", "dialogue.train_dataset": "b"}
    assert spec.references().paths == {
        "dialogue.language_model.path": "/m",
        "dialogue.instructions.path": "/i.json", "dialogue.instructions.images": "/i",
    }  # fmt: skip
    other = parse_spec("evaluate", {**requested, "tasks": ["captioning"]}).references()
    assert (other.datasets["captioning.train_dataset"], other.paths) == ("c", {})
    heads = {task: {"train_dataset": task[0]} for task in ("classification", "captioning", "tuned_retrieval")}
    others = parse_spec(
        "evaluate", {"encoder": "e", "dataset": "a", **heads, "tasks": ["classification", "tuned_retrieval"]}
    )
    assert others.references().datasets == {
        "dataset": "a", "classification.train_dataset": "c", "tuned_retrieval.train_dataset": "t",
    }  # fmt: skip


def test_each_protocol_takes_what_concerns_it():
    spec = ClassificationSpec(epochs=20, full_epochs=8, search={"lr": (0.1, 0.2), "encoder_lr": (0.01,)})
    frozen, full = spec.for_protocol("frozen"), spec.for_protocol("full")
    assert (frozen.epochs, set(frozen.search)) == (20, {"lr"})
    assert (full.epochs, set(full.search)) == (8, {"lr", "encoder_lr"})
    searched = ClassificationSpec(epochs=20, full_epochs=8, search={"epochs": (3, 5)})
    assert searched.for_protocol("full").epochs == 20  # the search decides


def test_the_block_order_is_another_spec():
    def digest(**data):
        return spec_hash("pretrain", parse_spec("pretrain", {"data": data}))

    assert digest() == digest(order="full") != digest(order="blocks") != digest(order="blocks", window_blocks=8)


def test_a_branch_is_another_spec():
    def of(**fields):
        return spec_hash("pretrain", parse_spec("pretrain", fields))

    branch = {"run": "run_0123456789abcdef01", "step": 500}
    assert len({of(), of(branch=branch), of(branch={**branch, "step": 600})}) == 3
    with pytest.raises(UserError, match=r"above branch\.step"):
        parse_spec("pretrain", {"branch": branch, "steps": 500})


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
def test_a_monitor_that_measures_nothing_held_out_is_refused(objective, source, monitor, field):
    spec = {"objective": {"name": objective}, "data": {"sources": [source]}}
    assert parse_spec("pretrain", {**spec, "monitor": {"dataset": "sample"}})
    with pytest.raises(UserError) as caught:
        parse_spec("pretrain", {**spec, "monitor": {"dataset": "sample", **monitor}})
    assert (caught.value.code, caught.value.field) == ("bad_spec", field)


def test_the_settings_of_a_figure_are_those_of_its_head():
    def settings(variant, seed=0, **own):
        spec = parse_spec("evaluate", {"encoder": "e", "seed": seed, "classification": own})
        return task_settings(spec.model_dump(mode="json"), "classification", "frozen", variant)

    several = {"heads": ["attentive", "linear", "knn"], "neighbours": [10, 20], "l2": [1.0]}
    assert settings("colour") == settings("colour", **several) != settings("colour", lr=0.1)
    assert settings("colour, linear") == settings("colour, linear", lr=0.1, heads=["linear"])
    assert settings("colour, linear") != settings("colour, linear", l2=[1.0])
    assert settings("colour, linear") != settings("colour, linear", seed=1)
    assert settings("colour, knn 20") == settings("colour, knn 20", seed=1, lr=0.1, **several)
    for variant in ("colour", "colour, linear", "colour, knn 20"):
        elsewhere = settings(variant, train_dataset="other")
        assert elsewhere == settings(variant) | {"classification.train_dataset": "other"}
