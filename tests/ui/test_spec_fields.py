"""From the schema to a form and back into a spec."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lcl_core.common.errors import UserError
from lcl_core.specs.parsing import SPECS, parse_spec
from ui.spec_fields import (
    Field,
    check,
    from_json,
    get_at,
    main_fields,
    preset_names,
    put_at,
    spec_differences,
    starting_spec,
    to_json,
)


@pytest.mark.parametrize("kind", SPECS)
def test_main_fields_exist_in_the_starting_spec(kind: str) -> None:
    spec = starting_spec(kind)
    for field in main_fields(kind):
        parent, _, last = field.path.rpartition(".")
        assert last in (get_at(spec, parent) if parent else spec)


def test_fields_know_their_type_and_say_what_they_are() -> None:
    fields = {field.path: field for kind in SPECS for field in main_fields(kind)}
    assert fields["steps"].kind == "integer"
    assert fields["optimizer.lr"].kind == "number"
    assert fields["objective.name"].kind == "choice"
    assert {"lcl", "clip", "emu"} < set(fields["objective.name"].options)
    assert fields["objective.contrastive_weight"].kind == "number"
    assert "0 to 1,000" in fields["objective.contrastive_weight"].info
    assert fields["untrained_baseline"].kind == "boolean"
    assert fields["tasks"].options[:2] == ("retrieval", "classification")
    assert "captioning" in fields["tasks"].options
    assert fields["transfer"].options == ("frozen", "full")
    assert fields["splits"].kind == "list"
    assert fields["source"].kind == "text"
    assert "16 to 1,024" in fields["model.image_size"].info


@pytest.mark.parametrize(
    ("kind", "preset", "required"),
    [(kind, preset, given) for kind, given in (("pretrain", {}), ("evaluate", {"encoder": "enc_1"}))
     for preset in preset_names(kind)],
)  # fmt: skip
def test_every_preset_starts_valid_but_for_what_is_required(kind: str, preset: str, required: dict[str, str]) -> None:
    empty = starting_spec(kind, preset)
    assert all(empty[name] == "" for name in required)
    spec = {**empty, **required}
    assert check(kind, to_json(spec)) == spec
    assert parse_spec(kind, spec) == parse_spec(kind, {"preset": preset, **required})


def test_what_is_required_starts_empty_and_is_asked_for() -> None:
    with pytest.raises(UserError) as caught:
        check("index", to_json(starting_spec("index")))
    assert caught.value.field == "encoder"


@pytest.mark.parametrize(("text", "words"), [('{"a": ', "line 1"), ('{\n "a": 1,\n}', "line 3"), ("[1]", "object")])
def test_broken_json_is_reported_with_its_line(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        from_json(text)


def test_values_are_put_at_dotted_paths_without_touching_the_original() -> None:
    spec = {"data": {"sources": [{"dataset": "a"}, {"dataset": "b"}]}}
    changed = put_at(spec, "data.sources.1.dataset", "c")
    assert get_at(changed, "data.sources.1.dataset") == "c"
    assert get_at(spec, "data.sources.1.dataset") == "b"
    assert get_at(changed, "data.sources.*.dataset") == "a"
    assert put_at(changed, "data.sources.*.dataset", "d") == {"data": {"sources": [{"dataset": "d"}, {"dataset": "c"}]}}
    with pytest.raises(IndexError):
        put_at({}, "data.sources.*.dataset", "d")
    assert put_at({}, "optimizer.lr", 1.0) == {"optimizer": {"lr": 1.0}}
    assert get_at(spec, "data.sources.7.dataset") is None
    assert get_at(spec, "data.nothing.here") is None


@pytest.mark.parametrize(
    ("kind", "texts", "in_spec"),
    [
        ("integer", ["300"], 300),
        ("integer", ["2.5"], 2.5),  # left for the spec to refuse
        ("integer", ["many"], "many"),
        ("integer", [""], None),
        ("number", ["1e-3"], 0.001),
        ("list", [" a, b ,"], ["a", "b"]),
        ("list", [""], None),
        ("integers", ["0, 7"], [0, 7]),
        ("text", [], None),
        ("text", ["emoji"], "emoji"),
        ("boolean", [], False),
        ("choices", ["a", "b"], ["a", "b"]),
    ],
)
def test_texts_of_a_form_become_spec_values(kind: str, texts: list[str], in_spec: Any) -> None:
    field = Field("x", "X", kind)
    got = field.to_spec(texts)
    assert got == in_spec
    assert type(got) is type(in_spec)
    assert field.to_spec(field.to_form(got)) == got


@pytest.mark.parametrize(
    ("in_spec", "in_form"), [(["a", "b"], "a, b"), (None, ""), ([1, None], "1, None"), (5, "5"), ({"a": 1}, "{'a': 1}")]
)
def test_a_list_is_one_line_also_where_it_is_none(in_spec: Any, in_form: str) -> None:
    assert Field("x", "X", "list").to_form(in_spec) == [in_form]


def test_json_round_trip() -> None:
    spec = starting_spec("evaluate")
    assert from_json(to_json(spec)) == json.loads(json.dumps(spec))


def test_specs_are_compared_by_dotted_fields() -> None:
    left = {"steps": 10, "optimizer": {"lr": 0.1, "betas": [0.9, 0.95]}, "data": {"sources": [{"view": "pairs"}]}}
    right = {"steps": 10, "optimizer": {"lr": 0.2, "betas": [0.9, 0.99]}, "data": {"sources": []}, "seed": 1}
    assert spec_differences([left, left]) == []
    assert spec_differences([left, right, left]) == [
        ("optimizer.lr", [0.1, 0.2, 0.1]),
        ("optimizer.betas", [[0.9, 0.95], [0.9, 0.99], [0.9, 0.95]]),
        ("data.sources.0.view", ["pairs", None, "pairs"]),
        ("data.sources", [None, [], None]),
        ("seed", [None, 1, None]),
    ]
