"""Folders that no row names: what deleted runs, replaced collections and broken-off work left behind.

Only folders that the service itself names are looked at: ``runs/run_…``, ``encoders/enc_…``, ``collections/col_…``,
``datasets/data_…``, and the hidden ones in which such a folder is made or removed. One is removed after a grace in
which the same database has known it for garbage: a service that was pointed at a wrong database does no harm at once.
In the store of artifacts it is the places that no deposit names, ``store/runs/run_…/ATTEMPT`` and the like; in the
database itself the tables of vectors that no collection names, ``tables/vec_…``.

What a run made is garbage only when the run cannot make it again: it has succeeded, or it is gone. So nothing that is
found to be unnamed is named later, and no lock is needed between looking and removing.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from lcl_core.common.files import remove_tree
from lcl_core.db.artifact_store import ArtifactStore
from lcl_core.db.artifacts import home_id
from lcl_core.db.models import CollectionRow, Dataset, DatasetVersion, EncoderRow, Garbage, Run
from lcl_core.db.outbox import referenced_keys
from lcl_core.db.pgvector import drop_vectors, orphaned_tables
from lcl_core.db.session import Database, dialect_insert, now
from lcl_core.db.states import State

_FOLDERS = {"runs": "run", "encoders": "enc", "collections": "col", "datasets": "data"}
_DIGITS = "[0-9a-hjkmnp-tv-z]{18}"
_FOLDER_NAME = r"(?P<hidden>\.(?:import-)?)?(?P<prefix>{prefix})_(?P<digits>{digits})(?:\.[0-9a-f]{{8}})?"
_REMOVED = re.compile(r"\.removed-[0-9a-f]{16}")
StoredKeys = Mapping[str, int] | None


_STORE, _TABLES = "store/", "tables/"  # how the paths of what lies there begin


@dataclass(frozen=True)
class Orphan:
    """A folder, or tables with the vectors of a collection, that no row names."""

    path: str  # relative to home
    bytes: int  # that its removal frees: files that are linked elsewhere too are not counted
    seen_at: datetime | None  # None: nobody has noted it yet
    due: bool  # the grace is over


def list_garbage(session: Session, home: Path, grace_seconds: float, stored: StoredKeys = None) -> list[Orphan]:
    """What no row names, by path; only looks.

    Args:
        stored: places in the store of artifacts and their bytes, listed before (``Depot.places``); None: not looked at.
    """
    noted = {(row.home, row.path): row.seen_at for row in session.scalars(select(Garbage))}
    latest = now(session) - timedelta(seconds=grace_seconds)
    unnamed = _find_orphans(session, home, stored)
    found = []
    for where, paths in unnamed.items():
        for path in paths:
            seen_at = noted.get((where, path))
            size = (stored or {})[path] if where == "" else _freed_bytes(Path(home) / path)
            shown = f"{_STORE}{path}" if where == "" else path
            found.append(Orphan(shown, size, seen_at, seen_at is not None and seen_at <= latest))
    # they are rows of this very database, so that no wrong one can have been asked: no grace
    return found + [Orphan(_TABLES + name, size, None, True) for name, size in orphaned_tables(session).items()]


def record_garbage(session: Session, home: Path, grace_seconds: float, stored: StoredKeys = None) -> list[Orphan]:
    """The same, and note since when; what is named again, or gone, is forgotten. Other homes' notes stay."""
    moment = now(session)
    for where, paths in _find_orphans(session, home, stored).items():
        known = set(session.scalars(select(Garbage.path).where(Garbage.home == where)))
        for path in sorted(known.difference(paths)):  # in one order everywhere: two never wait for each other crosswise
            session.execute(delete(Garbage).where(Garbage.home == where, Garbage.path == path))
        if new := [{"home": where, "path": path, "seen_at": moment} for path in sorted(paths) if path not in known]:
            # another may have noted the same since we looked
            session.execute(dialect_insert(session, Garbage).on_conflict_do_nothing(), new)
    return list_garbage(session, home, grace_seconds, stored)


def remove_garbage(database: Database, home: Path, paths: Iterable[str], depot: ArtifactStore | None = None) -> None:
    """Remove folders that ``note_garbage`` has called due. What another is removing meanwhile is passed over.

    Raises: OSError; UserError ``store_unreachable``.
    """
    for path in paths:
        if path.startswith(_TABLES):
            drop_vectors(database, path.removeprefix(_TABLES))
        elif not path.startswith(_STORE):
            remove_tree(Path(home) / path)
        elif depot is not None:
            depot.remove(path.removeprefix(_STORE))


def collect_garbage(
    database: Database, home: Path, grace_seconds: float, depot: ArtifactStore | None = None, stored: StoredKeys = None
) -> list[Orphan]:
    """Note, and remove what is due. Safe to do by several at once.

    Returns: what was. Raises: OSError, UNREACHABLE; UserError ``store_unreachable``.
    """
    with database.session() as session:
        due = [found for found in record_garbage(session, home, grace_seconds, stored) if found.due]
    remove_garbage(database, home, [found.path for found in due], depot)
    return due


def _find_orphans(session: Session, home: Path, stored: StoredKeys) -> dict[str, list[str]]:
    """By the home's id, and "" for the store if that was looked at."""
    found = {home_id(home): _unreferenced(session, list(_list_folders(home)))}
    if stored is not None:
        named = referenced_keys(session)
        found[""] = sorted(place for place in stored if place not in named)
    return found


def _list_folders(home: Path) -> Iterator[str]:
    """Folders by the service's own names; a link is nobody's leftover."""
    for folder, prefix in _FOLDERS.items():
        own = re.compile(_FOLDER_NAME.format(prefix=prefix, digits=_DIGITS))
        place = Path(home) / folder
        for entry in sorted(place.iterdir()) if place.is_dir() else ():
            ours = own.fullmatch(entry.name) or _REMOVED.fullmatch(entry.name)
            if ours and entry.is_dir() and not entry.is_symlink():
                yield f"{folder}/{entry.name}"


def _unreferenced(session: Session, candidates: list[str]) -> list[str]:
    named = {
        path for model in (EncoderRow, CollectionRow, Dataset, DatasetVersion) for path in _stored_paths(session, model)
    }
    states = dict(session.execute(select(Run.id, Run.state)).tuples().all()) if candidates else {}
    return [path for path in candidates if path not in named and not _may_be_referenced(path, states)]


def _stored_paths(
    session: Session, model: type[EncoderRow | CollectionRow | Dataset | DatasetVersion]
) -> Iterable[str]:
    return session.scalars(select(model.path))


def _may_be_referenced(path: str, states: dict[str, str]) -> bool:
    folder, _, name = path.partition("/")
    found = re.fullmatch(_FOLDER_NAME.format(prefix=_FOLDERS[folder], digits=_DIGITS), name)
    if found is None:
        return False  # a folder whose removal was broken off
    state = states.get(f"run_{found['digits']}")
    if folder == "runs":
        return state is not None
    return state not in (None, State.SUCCEEDED.value)


def _freed_bytes(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):  # passes over what another is removing, as Path.rglob does not
        for name in names:
            try:
                facts = os.lstat(os.path.join(place, name))
            except FileNotFoundError:
                continue
            total += facts.st_size if facts.st_nlink == 1 and stat.S_ISREG(facts.st_mode) else 0
    return total
