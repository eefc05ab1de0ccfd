"""Named starting points, kept as data."""

from __future__ import annotations

import copy
import json
from functools import cache
from importlib import resources
from typing import Any, cast


def presets(kind: str) -> dict[str, dict[str, Any]]:
    """Named starting points, kept as data in ``lcl_core/presets/KIND/*.json``; each may hold a ``description``."""
    return copy.deepcopy(_read_presets(kind))


@cache
def _read_presets(kind: str) -> dict[str, dict[str, Any]]:
    folder = resources.files("lcl_core") / "presets" / kind
    if not folder.is_dir():
        return {}
    found = {}
    for file in folder.iterdir():
        if file.name.endswith(".json"):
            preset = cast(dict[str, Any], json.loads(file.read_text(encoding="utf-8")))
            preset.pop("description", None)
            found[file.name.removesuffix(".json")] = preset
    return found


def apply_preset(kind: str, given: Any) -> Any:
    """``given`` laid over the preset that it names, if it names one. Raises: ValueError for a name not known."""
    if not isinstance(given, dict) or not isinstance(given.get("preset"), str):
        return given  # what is no name is the field's own to refuse
    known = _read_presets(kind)
    if given["preset"] not in known:
        raise ValueError(f"preset {given['preset']!r} is not known; choose from {', '.join(sorted(known))}")
    return merge_objects(copy.deepcopy(known[given["preset"]]), given)


def merge_objects(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``over`` laid over ``base``, objects within objects too."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merge_objects(result[key], value) if both else value
    return result
