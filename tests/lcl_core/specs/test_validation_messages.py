"""Messages about refused values name the field as it was sent, in plain words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lcl_core.common.errors import UserError, suggestion
from lcl_core.specs.parsing import SPECS, parse_as, parse_spec
from lcl_core.specs.study import StudySpec
from lcl_core.specs.validation_messages import OTHER_REQUIREMENT, describe_error, main_error
from tests.lcl_core.specs.test_specs import SMALLEST

LIBRARY_WORDS = re.compile(
    r"Input should|Field required|Extra inputs|(String|List|Tuple|Set|Dictionary|Value) (should|error)|validation error"
    r"|instance of|constrained-str|unable to parse|\^\[|\\x|pydantic|\{[a-z]|Union",
)
JUNK: tuple[Any, ...] = (None, True, -1, 2**70, 0.5, float("nan"), "", "a b", "x" * 5000, [], [[]], ["?"], {}, {"?": 1})


class Left(BaseModel):
    kind: Literal["left"]
    size: int


class Right(BaseModel):
    kind: Literal["right"]
    parts: list[int | Left] = []


class Whole(BaseModel):
    model_config = ConfigDict(extra="forbid")

    side: Left | Right = Field(discriminator="kind")
    other: Left | str | None = None


def message(value: Any) -> tuple[str, str]:
    with pytest.raises(ValidationError) as caught:
        Whole.model_validate(value)
    error, path = main_error(caught.value.errors(), Whole, value)
    return ".".join(map(str, path)), describe_error(error, Whole)


def fields_of(schema: dict[str, Any], definitions: dict[str, Any], depth: int = 0) -> Iterator[tuple[str, ...]]:
    """Dotted paths of the fields of a schema and of the objects in it."""
    for name, field in schema.get("properties", {}).items():
        yield (name,)
        for choice in (field, *field.get("anyOf", ())):
            inner = definitions.get(choice.get("$ref", "").rpartition("/")[2])
            if inner and depth < 2:
                yield from ((name, *path) for path in fields_of(inner, definitions, depth + 1))


def nested(path: tuple[str, ...], value: Any) -> Any:
    return nested(path[:-1], {path[-1]: value}) if path else value


def refusal(model: Any, spec: Any) -> UserError | None:
    try:
        parse_as(model, spec)
    except UserError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("value", "field", "words"),
    [
        ({}, "side", "required"),
        ([], "", "must be an object"),
        ({"side": {"kind": "up"}}, "side", "'kind' must be one of 'left', 'right'"),
        ({"side": {"kind": "left", "size": "x"}}, "side.size", "must be a whole number"),
        ({"side": {"kind": "right", "parts": [1, {"kind": "left", "size": "x"}]}}, "side.parts.1.size", "whole number"),
        ({"side": {"kind": "right", "parts": ["x"]}}, "side.parts.0", "must be a whole number"),
        ({"side": {"kind": "left", "size": 1}, "other": {"kind": "left"}}, "other.size", "required"),
        ({"side": {"kind": "left", "size": 1}, "othre": 1}, "othre", "did you mean 'other'?"),
    ],
)
def test_a_path_has_no_names_of_types(value: Any, field: str, words: str) -> None:
    found, text = message(value)
    assert found == field
    assert words in text


@pytest.mark.parametrize("kind", [*SPECS, "study"])
def test_no_message_speaks_as_the_library_does(kind: str) -> None:
    model = StudySpec if kind == "study" else SPECS[kind]
    schema = model.model_json_schema()
    smallest = {"pretrain": {}, "evaluate": {}} if kind == "study" else SMALLEST[kind]
    refusals = [
        (path, value, error)
        for path in fields_of(schema, schema.get("$defs", {}))
        for value in JUNK
        if (error := refusal(model, {**smallest, **nested(path, value)}))
    ]
    assert len(refusals) > 20
    for path, value, error in refusals:
        message = error.message.partition(" (got ")[0]
        assert not LIBRARY_WORDS.search(message), (path, value, message)
        assert OTHER_REQUIREMENT not in message, (path, value)
        assert re.fullmatch(r"[a-z_0-9]+(\.([a-z_0-9]+|\[key\]|\?))*", error.field or "spec"), error.field


def test_a_misspelt_field_is_named() -> None:
    with pytest.raises(UserError, match=r"stpes: there is no such field; did you mean 'steps'\?"):
        parse_spec("pretrain", {"stpes": 40})


def test_only_a_similar_name_is_suggested() -> None:
    assert suggestion("drawing", ["sample", "drawings"]) == "; did you mean 'drawings'?"
    assert suggestion("zebra", ["sample", "drawings"]) == ""
