"""The vocabulary: presets, bounds, and errors that name the field."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lcl_core.errors import UserError
from lcl_core.kinds import KINDS
from lcl_core.specs import SPECS, EvaluateSpec, PretrainSpec, datasets_of, encoders_of, parse_spec, presets


def test_a_preset_fills_in_what_is_not_given() -> None:
    preset = presets("pretrain")["sample"]
    spec = parse_spec("pretrain", {"preset": "sample", "steps": 7, "model": {"text_layers": 1}})
    assert isinstance(spec, PretrainSpec)
    assert spec.steps == 7
    assert spec.model.text_layers == 1
    assert spec.model.vision_layers == preset["model"]["vision_layers"]


@pytest.mark.parametrize("name", sorted(presets("pretrain")))
def test_every_preset_is_a_spec(name: str) -> None:
    assert parse_spec("pretrain", {"preset": name})


SMALLEST: dict[str, dict[str, str]] = {
    "pretrain": {},
    "evaluate": {"encoder": "enc_1"},
    "index": {"encoder": "enc_1", "collection": "things"},
    "validate": {"dataset": "sample"},
    "convert": {"path": "/data/mine", "name": "mine"},
    "match": {"dataset": "sample", "encoder": "enc_1", "name": "matched"},
}


@pytest.mark.parametrize("kind", sorted(SPECS))
def test_a_parsed_spec_parses_to_itself(kind: str) -> None:
    spec = parse_spec(kind, SMALLEST[kind])
    assert parse_spec(kind, spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize(
    ("kind", "spec", "field", "word"),
    [
        ("pretrain", {"optimizer": {"lr": -1}}, "optimizer.lr", "greater than 0"),
        ("pretrain", {"optimizer": {"lr": float("nan")}}, "optimizer.lr", "finite"),
        ("pretrain", {"model": {"patch_size": 7}}, "model", "multiple of patch_size"),
        ("pretrain", {"model": {"image_size": 512, "patch_size": 4}}, "model", "context_length"),
        ("pretrain", {"preset": "nothing"}, None, "choose from"),
        ("pretrain", {"stpes": 3}, "stpes", "not permitted"),
        ("pretrain", {"data": {"sources": []}}, "data.sources", "at least 1"),
        ("pretrain", {"data": {"sources": [{"dataset": "../x"}]}}, "data.sources.0.dataset", "pattern"),
        ("pretrain", [], None, "dictionary"),
        ("evaluate", {}, "encoder", "required"),
        ("evaluate", {"encoder": "e", "tasks": ["cooking"]}, "tasks.0", "retrieval"),
        ("index", {"encoder": "e"}, "collection", "required"),
        ("cook", {}, "kind", "choose from"),
    ],
)
def test_bad_specs_name_the_field(kind: str, spec: object, field: str | None, word: str) -> None:
    with pytest.raises(UserError, match=word) as caught:
        parse_spec(kind, spec)
    assert caught.value.field == field


def test_what_a_spec_reads() -> None:
    spec = parse_spec("pretrain", {"data": {"sources": [{"dataset": "a"}, {"dataset": "b"}, {"dataset": "a"}]}})
    assert datasets_of(spec) == ("a", "b")
    assert encoders_of(spec) == ()
    evaluation = EvaluateSpec(encoder="enc_1", dataset="a")
    assert (datasets_of(evaluation), encoders_of(evaluation)) == (("a",), ("enc_1",))


def test_the_vocabulary_needs_no_torch() -> None:
    code = "import lcl_core.specs, lcl_core.rundir, sys; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_kinds_are_those_of_the_specs() -> None:
    assert tuple(SPECS) == KINDS
