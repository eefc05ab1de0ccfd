"""The service's own description, with what is there put into it, so that generated requests reach past "not found"."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lcl_core.specs.parsing import SPECS
from lcl_core.specs.study import StudySpec

Json = dict[str, Any]
COMPONENTS = "#/components/schemas/"
SMALL = {"preset": "sample", "steps": 3}
PASSING: dict[str, list[Json]] = {
    "pretrain": [SMALL, {}, {**SMALL, "seed": 7, "log_every": 1}],
    "evaluate": [{"encoder": "tiny"}, {"encoder": "tiny", "dataset": "sample"}],
    "index": [{"encoder": "tiny", "collection": "fresh"}],
    "validate": [{"dataset": "sample"}, {"dataset": "sample", "tokens": False}],
    "convert": [{"dataset": "sample", "name": "converted"}],
    "match": [{"dataset": "sample", "encoder": "tiny", "name": "matched"}],
    "study": [{"metrics": [{"name": "IR@5", "metric": "IR@5"}], "pretrain": SMALL, "max_cells": 4}],
}
# What a request may name, by (start of the path, name of the parameter or property). "" stands for every path.
Names = Mapping[tuple[str, str], Sequence[Any]]


def furnished(document: Json, names: Names, *, deep: bool = True) -> Json:
    """A copy in which whatever ``names`` knows is one of its values, and (``deep``) specs are described in full."""
    full = copy.deepcopy(document)
    schemas: Json = full["components"]["schemas"]
    choices = {kind: [{"enum": specs}] for kind, specs in PASSING.items()}
    if deep:
        for kind, model in {**SPECS, "study": StudySpec}.items():
            choices[kind].append(_hoisted(schemas, model.model_json_schema()))
    submission, study = schemas["RunSubmission"], schemas["StudySubmission"]
    schemas["RunSubmission"] = {"anyOf": [_of_kind(submission, kind, choices[kind]) for kind in SPECS]}
    study["properties"]["spec"] = {"anyOf": choices["study"]}
    for path, operations in full["paths"].items():
        for operation in operations.values():
            _name_parameters(path, operation, names)
    for component in _asked(full):
        for name, described in schemas[component].get("properties", {}).items():
            if values := names.get(("", name)):
                schemas[component]["properties"][name] = _one_of(described, values)
    return full


def _of_kind(submission: Json, kind: str, specs: list[Json]) -> Json:
    reported = {"kind": {"const": kind}, "spec": {"anyOf": specs}}
    return {**submission, "properties": {**submission["properties"], **reported}}


def _name_parameters(path: str, operation: Json, names: Names) -> None:
    for parameter in operation.get("parameters", []):
        for (start, name), values in names.items():
            if start and path.startswith(start) and parameter["name"] == name:
                parameter["schema"] = _one_of(parameter["schema"], values)


def _one_of(described: Json, values: Sequence[Any]) -> Json:
    """One of the values; a list of them where lists are asked for."""
    chosen: Json = {"enum": list(values)}
    if described.get("type") == "array":
        return {"type": "array", "items": chosen, "maxItems": 3}
    if any(other.get("type") == "null" for other in described.get("anyOf", [])):
        return {"anyOf": [chosen, {"type": "null"}]}
    return chosen


def _hoisted(schemas: Json, schema: Json) -> Json:
    """A reference to a schema whose definitions have become components of the document."""
    definitions = {**schema.pop("$defs", {}), schema["title"]: schema}
    for title, definition in definitions.items():
        schemas[title] = _pointed_elsewhere(definition)
    return {"$ref": COMPONENTS + schema["title"]}


def _pointed_elsewhere(node: Any) -> Any:
    if isinstance(node, dict):
        return {
            key: value.replace("#/$defs/", COMPONENTS)
            if key == "$ref"
            else {word: place.replace("#/$defs/", COMPONENTS) for word, place in value.items()}
            if key == "mapping"
            else _pointed_elsewhere(value)
            for key, value in node.items()
        }
    return [_pointed_elsewhere(value) for value in node] if isinstance(node, list) else node


def _asked(document: Json) -> set[str]:
    """Components that requests are made of, and no answer is."""
    requested, answered = set[str](), set[str]()
    schemas = document["components"]["schemas"]
    for operations in document["paths"].values():
        for operation in operations.values():
            _follow(operation.get("requestBody"), schemas, requested)
            _follow(operation["responses"], schemas, answered)
    return requested - answered


def _follow(node: Any, schemas: Json, seen: set[str]) -> None:
    """Note every component that ``node`` refers to, however far."""
    for title in set(_references(node)) - seen:
        seen.add(title)
        _follow(schemas[title], schemas, seen)


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"].removeprefix(COMPONENTS)
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)
