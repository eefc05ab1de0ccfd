"""Fields of a spec out of its JSON schema, for ``lcl spec`` and the reference of the documentation site."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

from api.client.payloads import Json

DEPTH = 6  # of objects within objects
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
LENGTHS = {"minLength": "≥", "maxLength": "≤", "minItems": "≥", "maxItems": "≤"}


class SpecField(NamedTuple):
    """A field of a spec by its dotted path, ``sources[].dataset`` for the fields of a list's items."""

    path: str
    type_and_range: str
    default: str
    meaning: str


def spec_fields(schema: Json) -> list[SpecField]:
    """Every field of a schema; those of an object, and of a list's items, come after it."""
    definitions = schema.get("$defs", {})
    fields: list[SpecField] = []

    def walk(node: Json, prefix: str, depth: int) -> None:
        for name, field in node.get("properties", {}).items():
            inner = list(_objects(field, definitions))
            path = f"{prefix}{name}"
            meaning = field.get("description") or " ".join(each.get("description", "") for each, _ in inner)
            required = name in node.get("required", ())
            default = "required" if required else json.dumps(field.get("default"), ensure_ascii=False)
            filled = any(not suffix for _, suffix in inner) and field.get("default") is not None
            if filled or "default" not in field:
                default = "required" if required else ""  # an object's fields have the defaults
            types = "; ".join([_type(field, definitions), *_ranges(field, definitions)])
            fields.append(SpecField(path, types, default, " ".join(meaning.split())))
            for each, suffix in inner if depth < DEPTH else ():
                walk(each, f"{path}{suffix}.", depth + 1)

    walk(schema, "", 0)
    return list(dict.fromkeys(fields))


def _choices(field: Json, definitions: Json) -> Iterator[Json]:
    """The field's alternatives, references resolved; null is left out."""
    if "$ref" in field:
        yield from _choices(definitions[field["$ref"].rpartition("/")[2]], definitions)
        return
    nested = [*field.get("anyOf", ()), *field.get("oneOf", ()), *field.get("allOf", ())]
    if not nested:
        yield field
    for each in nested:
        if each.get("type") != "null":
            yield from _choices(each, definitions)


def _objects(field: Json, definitions: Json) -> Iterator[tuple[Json, str]]:
    """Objects with fields of their own that a field may hold, with what their paths have after the field's name."""
    for choice in _choices(field, definitions):
        if "properties" in choice:
            yield choice, ""
        if isinstance(choice.get("items"), dict):
            yield from ((each, f"[]{suffix}") for each, suffix in _objects(choice["items"], definitions))
        for values in (choice.get("additionalProperties"), *choice.get("patternProperties", {}).values()):
            if isinstance(values, dict):
                yield from ((each, f".NAME{suffix}") for each, suffix in _objects(values, definitions))


def _type(field: Json, definitions: Json) -> str:
    names = []
    for choice in _choices(field, definitions):
        if "enum" in choice or "const" in choice:
            names.append("choice")
        elif choice.get("type") == "array":
            items = choice.get("items")
            names.append(f"list of {_type(items, definitions)}" if isinstance(items, dict) else "list")
        else:
            names.append(choice.get("type", "any"))
    optional = any(each.get("type") == "null" for each in field.get("anyOf", ()))
    return " or ".join(dict.fromkeys(names)) + (", or null" if optional else "")


def _ranges(field: Json, definitions: Json) -> Iterator[str]:
    """Bounds, lengths, choices and patterns; those of a list's items after its own."""
    for choice in _choices(field, definitions):
        values = choice.get("enum", [choice["const"]] if "const" in choice else [])
        if values:
            yield ", ".join(f"`{value}`" for value in values)
        yield from (f"{sign} {choice[key]:,}" for key, sign in BOUNDS.items() if key in choice)
        unit = "items" if choice.get("type") == "array" else "characters"
        yield from (f"{sign} {choice[key]:,} {unit}" for key, sign in LENGTHS.items() if key in choice)
        if "pattern" in choice:
            yield f"``{choice['pattern']}``"
        if isinstance(choice.get("items"), dict):
            yield from (f"each: {words}" for words in _ranges(choice["items"], definitions))
