"""What is wrong with a value, in words: pydantic's errors with the way out."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Union

from pydantic import BaseModel

LISTED = 30  # names of fields that a message shows at most
PRINTABLE = "it may hold no control characters, line breaks or characters that turn the direction of writing"
CONTROL = "it may hold no control characters"
# What the patterns of fields mean. A pattern that is not among them is shown as it stands.
PATTERNS = {
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$": (
        "a name starts with a letter or digit and holds letters, digits, . _ and - only, 100 characters at most"
    ),
    r"^[A-Za-z0-9][A-Za-z0-9._:/=-]{0,99}$": (
        "a tag starts with a letter or digit and holds letters, digits and . _ : / = - only, 100 characters at most"
    ),
    r"^[A-Za-z_][A-Za-z0-9_]{0,99}$": (
        "the name of a Python package starts with a letter or _ and holds letters, digits and _ only"
    ),
    r"\{\}": "a template holds {} where the name of the class goes",
    r"^[a-z_]+(\.([a-z_]+|[0-9]+))*$": "a field is named by its dotted path, such as optimizer.lr",
    r"^[^\x00-\x1f\x7f]*$": CONTROL,
    r"^[^\x00-\x1f\x7f|]{1,60}$": "it holds 1 to 60 characters, no | and no control characters",
    # of api.models: what no screen shows, or shows in another order
    r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+$": f"it may not be empty, and {PRINTABLE}",
    r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*$": PRINTABLE,
    r"^[^\x00]+$": "it may not be empty, and hold no NUL character",
    r"^[\x21-\x7e]+$": "it holds printable ASCII characters only, without blanks",
}


def words_for(error: Mapping[str, Any], model: type[BaseModel] | None = None) -> str:
    """An item of ``ValidationError.errors()`` as one clause.

    Args:
        model: what was validated, by which the names of fields are known. ``error["loc"]`` may begin with the name of
            the part of the request that it lies in.
    """
    if error["type"] == "extra_forbidden" and model is not None:
        return _unknown_field(error["loc"], model)
    if error["type"] == "string_pattern_mismatch":
        pattern = error.get("ctx", {}).get("pattern", "")
        return PATTERNS.get(pattern) or f"it must match the pattern {pattern}"
    return str(error["msg"]).removeprefix("Value error, ")


def _unknown_field(location: Iterable[str | int], model: type[BaseModel]) -> str:
    *way, last = location
    models = {model}
    for part in way:
        models = _models_below(models, part) or models  # a number, or the tag of a union, stays where it is
    fields = sorted({field.alias or name for each in models for name, field in each.model_fields.items()})
    near = difflib.get_close_matches(str(last), fields, n=1)
    if near:
        return f"there is no such field; did you mean {near[0]!r}?"
    shown = ", ".join(fields[:LISTED]) + (", …" if len(fields) > LISTED else "")
    return f"there is no such field; there are {shown}"


def _models_below(models: set[type[BaseModel]], part: str | int) -> set[type[BaseModel]]:
    """Those of a field's value; of a union, whose tag is a model's own name, that one."""
    tagged = {model for model in models if len(models) > 1 and part in (model.__name__, *_tags(model))}
    found = {
        below
        for model in models
        if isinstance(part, str) and part in model.model_fields
        for below in _models_in(model.model_fields[part].annotation)
    }
    return found or tagged


def _tags(model: type[BaseModel]) -> Iterator[Any]:
    """Values by which a discriminated union knows the model: the defaults of its literals."""
    for field in model.model_fields.values():
        if typing.get_origin(field.annotation) is typing.Literal:
            yield from typing.get_args(field.annotation)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Models that an annotation names, inside unions, lists and dicts too."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_origin(annotation) is Annotated:
        yield from _models_in(typing.get_args(annotation)[0])
    elif typing.get_origin(annotation) in (Union, types.UnionType, list, dict, tuple):
        for argument in typing.get_args(annotation):
            yield from _models_in(argument)
