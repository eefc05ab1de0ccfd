"""Form fields from the JSON schema of a spec, the spec from their values, and its errors in their words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from api.client import ApiError, UserError
from lcl_core.specs.base import presets
from lcl_core.specs.parsing import MAIN_FIELDS, SPECS, parse_spec

STUDY = "study"  # a form like those of the kinds of runs
FIRST_PRESETS = {"pretrain": "sample", "evaluate": "sample", STUDY: "loss_ablation"}
EACH = "*"  # of a dotted path: the first item of a list, and all items that have the same value as the first
PLAIN_WORDS = {
    "must be greater than or equal to": "at least",
    "must be less than or equal to": "at most",
    "must be greater than": "more than",
    "must be less than": "less than",
    "this field is required": "fill this in",
}
_STAND_IN = "x"  # a name for required fields while a preset is resolved


@dataclass(frozen=True)
class Field:
    """``path`` is dotted, as in error messages.

    ``kind``: integer, number, boolean, choice, choices, list, integers (a list of them) or text.
    """

    path: str
    title: str
    kind: str
    info: str = ""
    options: tuple[str, ...] = ()

    def to_form(self, value: Any) -> list[str]:
        """A value of the spec, valid or not, as texts of a form: a list as one line, None as an empty text."""
        if self.kind == "choices":
            return [str(each) for each in value] if isinstance(value, list) else []
        if self.kind == "boolean":
            return ["on"] if value else []
        return [", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)]

    def to_spec(self, texts: Sequence[str]) -> Any:
        """Texts of a form as a value for the spec; empty text is None, and what is no number stays as it is."""
        if self.kind == "choices":
            return list(texts)
        if self.kind == "boolean":
            return bool(texts)
        text = next(iter(texts), "").strip()
        if self.kind in ("list", "integers"):
            words = [word.strip() for word in text.split(",") if word.strip()]
            return [int(word) if self.kind == "integers" and word.isdecimal() else word for word in words] or None
        if self.kind not in ("integer", "number"):
            return text or None
        try:
            value = float(text)
        except ValueError:
            return text or None
        return int(value) if self.kind == "integer" and value.is_integer() else value


@cache
def main_fields(kind: str) -> tuple[Field, ...]:
    """The fields of a kind, with types and descriptions from the schema."""
    if kind == STUDY:
        return (
            Field("seeds", "Seeds", "integers", "each row is trained once with every seed"),
            Field("pretrain.steps", "Steps", "integer", "of each training; empty: those of the preset"),
        )
    schema = SPECS[kind].model_json_schema()
    return tuple(_field(path, title, _lookup(schema, path)) for path, title in MAIN_FIELDS[kind].items())


def preset_names(kind: str) -> list[str]:
    return sorted(presets(kind))


def starting_spec(kind: str, preset: str | None = None) -> dict[str, Any]:
    """All fields of a preset, or the defaults; required fields are empty.

    Without a preset it has the fields too that a stored spec leaves out where they say nothing. What an index does to a
    collection that exists is for a reader to say.
    """
    if kind == STUDY:
        return presets(STUDY)[preset or FIRST_PRESETS[STUDY]]
    model: type[Any] = SPECS[kind]
    required = [name for name, field in model.model_fields.items() if field.is_required()]
    empty = dict.fromkeys(required, "")
    if preset is None:
        stored = model.model_construct(**empty).model_dump(mode="json")
        return {name: stored.get(name, field.default) for name, field in model.model_fields.items() if name != "mode"}
    filled = parse_spec(kind, {**dict.fromkeys(required, _STAND_IN), "preset": preset}).model_dump(mode="json")
    return {**filled, **empty}


def to_json(spec: Mapping[str, Any]) -> str:
    return json.dumps(spec, indent=2, ensure_ascii=False)


def from_json(text: str) -> dict[str, Any]:
    """Raises: UserError ``invalid_value`` with the line."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        message = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise UserError(message, field="JSON") from None
    if not isinstance(value, dict):
        raise UserError("a spec is an object: { … }", field="JSON")
    return value


def check(kind: str, text: str) -> dict[str, Any]:
    """The spec in ``text``, valid; that of a study only the service checks. Raises: UserError with the field."""
    spec = from_json(text)
    if kind != STUDY:
        parse_spec(kind, spec)
    return spec


def plain_error(error: ApiError | UserError, fields: Sequence[Field]) -> tuple[Field | None, str]:
    """The field of the form that an error is about, if any, and the error in words that begin with its title."""
    path = re.sub(r"\.\d+\b", f".{EACH}", error.field or "")
    field = next((each for each in fields if f"{path}.".startswith(f"{each.path}.")), None)
    words = error.message.removeprefix(f"{error.field}: ")
    empty = words.endswith(("(got '')", "(got None)"))
    words = "fill this in" if empty else re.sub(r" \(got .*\)$", "", words, flags=re.DOTALL)
    for said, plain in PLAIN_WORDS.items():
        words = words.replace(said, plain)
    title = field.title if field else error.field
    words = words if words.endswith("?") else f"{words}."
    return field, f"{title}: {words}" if title else f"{words[:1].upper()}{words[1:]}"


def get_at(spec: Any, path: str) -> Any:
    """The value at a dotted path; None where the path leads nowhere."""
    for part in path.split("."):
        if isinstance(spec, dict):
            spec = spec.get(part)
        elif isinstance(spec, list) and _is_index(part) and _index(part) < len(spec):
            spec = spec[_index(part)]
        else:
            return None
    return spec


def _is_index(part: str) -> bool:
    return part == EACH or part.isdigit()


def _index(part: str) -> int:
    return 0 if part == EACH else int(part)


def spec_differences(specs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Any]]]:
    """(dotted field, its value in each spec) of the fields that differ, in the order of the specs.

    A list is one value, unless it has objects: ``data.sources.0.weight``. A field that a spec lacks is None there.
    """
    flat = [dict(_flat_fields(spec, "")) for spec in specs]
    names = dict.fromkeys(name for fields in flat for name in fields)
    rows = [(name, [fields.get(name) for fields in flat]) for name in names]
    return [(name, values) for name, values in rows if any(value != values[0] for value in values[1:])]


def _flat_fields(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    inner: Iterable[tuple[Any, Any]]
    if isinstance(value, Mapping) and (value or not path):
        inner = value.items()
    elif isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        inner = enumerate(value)
    else:
        yield path, value
        return
    for name, part in inner:
        yield from _flat_fields(part, f"{path}.{name}" if path else str(name))


def put_at(spec: Any, path: str, value: Any) -> Any:
    """A copy of ``spec`` with ``value`` at a dotted path; missing objects are created.

    At ``*`` the items of a list change that have the same value as the first one.

    Raises: IndexError for an item that is not there.
    """
    head, _, rest = path.partition(".")
    if head == EACH:
        items = spec if isinstance(spec, list) else []
        before = get_at(items[0], rest)
        return [put_at(item, rest, value) if get_at(item, rest) == before else item for item in items]
    if isinstance(spec, list) and head.isdigit():
        copy = list(spec)
        copy[int(head)] = put_at(copy[int(head)], rest, value) if rest else value
        return copy
    inner = spec if isinstance(spec, dict) else {}
    return {**inner, head: put_at(inner.get(head, {}), rest, value) if rest else value}


def _lookup(schema: dict[str, Any], path: str) -> dict[str, Any]:
    """The schema of one field, with references resolved."""
    node: dict[str, Any] = schema
    for part in path.split("."):
        node = _resolve(schema, node)
        node = node["items"] if _is_index(part) else node["properties"][part]
    return {**_resolve(schema, node), **({"description": node["description"]} if "description" in node else {})}


def _resolve(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """Resolve ``$ref``, and ``anyOf`` to the part that is not null."""
    if "$ref" in node:
        return _resolve(schema, schema["$defs"][node["$ref"].rpartition("/")[2]])
    options = [option for option in node.get("anyOf", ()) if option.get("type") != "null"]
    return {**node, **_resolve(schema, options[0])} if options else node


def _field(path: str, title: str, schema: dict[str, Any]) -> Field:
    kind, options = schema.get("type", "string"), tuple(schema.get("enum", ()))
    if kind == "array":
        options = tuple(schema["items"].get("enum", ()))
        kind = "choices" if options else "list"
    elif kind == "string":
        kind = "choice" if options else "text"
    low, high = schema.get("minimum"), schema.get("maximum")
    bounds = f"{low:,} to {high:,}" if low is not None and high is not None and high < 1e6 else ""
    info = "; ".join(filter(None, (schema.get("description", ""), bounds)))
    return Field(path, title, kind, info, options)
