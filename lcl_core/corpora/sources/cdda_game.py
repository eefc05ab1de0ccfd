"""The game's things: JSON objects by id, which inherit what they do not say."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import Any

_DEEPEST = 8  # of an inheritance


class Entities:
    """Several objects may have one id: of different types, or parts of one."""

    def __init__(self, objects: dict[str, list[dict[str, Any]]]) -> None:
        self._objects = objects

    def type_of(self, id: str) -> str | None:
        return self._objects[id][0].get("type") if id in self._objects else None

    def text(self, id: str, key: str, depth: int = 0) -> str | None:
        """A text of the first object that says it, or inherits it."""
        for entity in self._objects.get(id, ()):
            value = entity.get(key)
            if isinstance(value, dict):  # singular and plural
                value = value.get("str") or value.get("str_sp")
            if isinstance(value, str) and value:
                return value
            parent = entity.get("copy-from")
            if parent and parent != id and depth < _DEEPEST:
                inherited = self.text(parent, key, depth + 1)
                if inherited:
                    return inherited
        return None


def load_entities(folder: Path, things: Collection[str]) -> Entities:
    """Of every JSON file below ``folder``, in the order of their names.

    Args:
        things: types that are asked for; of several objects with one id those of such a type come first.
    """
    objects: dict[str, list[dict[str, Any]]] = defaultdict(list)
    files = (path for pattern in ("*.json", "*.json.gz") for path in folder.rglob(pattern))
    for path in sorted(files, key=lambda path: (path.parent.as_posix(), path.name)):
        value = json.loads(_text(path))
        for entity in value if isinstance(value, list) else [value]:
            for id in _ids(entity):
                objects[id].append(entity)
    for named in objects.values():
        named.sort(key=lambda entity: entity.get("type") not in things)
    return Entities(dict(objects))


def _text(path: Path) -> str:
    if path.suffix != ".gz":
        return path.read_text(encoding="utf-8")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return file.read()


def _ids(entity: Any) -> list[str]:
    if not isinstance(entity, dict):
        return []
    named = entity.get("id") or entity.get("abstract") or []
    return [id for id in ([named] if isinstance(named, str) else named) if isinstance(id, str)]
