"""The collection that an index run adds to: its directory and the changes since, put where the run reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lcl_core.errors import UserError
from lcl_core.runs.artifacts import remove_tree
from lcl_core.runs.changes import Moved, hand_over
from lcl_core.runs.database import Database
from lcl_core.runs.registry import get_collection, located
from lcl_core.specs import AnySpec, collections_of

_NONE: Mapping[str, Path] = {}


def handed_collections(
    database: Database, spec: AnySpec, changes: Path, home: Path, fetched: Mapping[str, Path] = _NONE
) -> dict[str, dict[str, Any]]:
    """By name: {"id", "stored": its path there, "path", "changes": directory, "through": the last change in it,
    "index": what searches it}.

    Args:
        changes: where to write what has changed.
        fetched: folders by their stored path that another home holds, and where they are here.

    Raises: UserError ``unknown_collection``, ``collection_changed``; OSError.
    """
    found = {}
    for name in collections_of(spec):
        remove_tree(changes)  # an earlier attempt's
        with database.reading() as session:
            row = get_collection(session, name)
            place = fetched.get(row.path) or located(home, row.path)
            try:
                through = hand_over(session, row, changes)
            except Moved:
                raise made_anew(name) from None
        if not place.is_dir():
            raise made_anew(name)
        place_of = {"path": str(place), "changes": str(changes)}
        facts = {"id": row.id, "stored": row.path, "through": through}
        found[name] = {**facts, **place_of, "index": "pgvector" if row.vectors else "files"}
    return found


def made_anew(name: str) -> UserError:
    message = f"collection {name!r} was made anew, or deleted, by another since this run began; retry the run"
    return UserError(message, code="collection_changed", field="collection")
