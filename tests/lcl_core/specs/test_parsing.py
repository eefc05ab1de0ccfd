"""Messages about refused values name the field as it was sent, in plain words."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lcl_core.common.errors import UserError, suggestion
from lcl_core.specs.parsing import describe_error, main_error, parse_spec


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


def message(value):
    with pytest.raises(ValidationError) as caught:
        Whole.model_validate(value)
    error, path = main_error(caught.value.errors(), value)
    return ".".join(map(str, path)), describe_error(error, Whole)


@pytest.mark.parametrize(
    ("value", "field", "words"),
    [
        ({}, "side", "required"),
        ([], "", "must be an object"),
        ({"side": {"kind": "up"}}, "side", "'kind' does not match any of the expected tags: 'left', 'right'"),
        ({"side": {"kind": "left", "size": "x"}}, "side.size", "must be a whole number"),
        ({"side": {"kind": "right", "parts": [1, {"kind": "left", "size": "x"}]}}, "side.parts.1.size", "whole number"),
        ({"side": {"kind": "right", "parts": ["x"]}}, "side.parts.0", "must be a whole number"),
        ({"side": {"kind": "left", "size": 1}, "other": {"kind": "left"}}, "other.size", "required"),
        ({"side": {"kind": "left", "size": 1}, "othre": 1}, "othre", "did you mean 'other'?"),
    ],
)
def test_a_path_has_no_names_of_types(value, field, words):
    found, text = message(value)
    assert found == field
    assert words in text


def test_a_misspelt_field_is_named():
    with pytest.raises(UserError, match=r"stpes: there is no such field; did you mean 'steps'\?"):
        parse_spec("pretrain", {"stpes": 40})


def test_only_a_similar_name_is_suggested():
    assert suggestion("drawing", ["sample", "drawings"]) == "; did you mean 'drawings'?"
    assert suggestion("zebra", ["sample", "drawings"]) == ""
