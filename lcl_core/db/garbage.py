"""Garbage collection: folders, store keys and pgvector tables that no row names.

Candidates have names that the service makes: ``runs/run_…``, ``encoders/enc_…``, ``collections/col_…``,
``datasets/data_…`` and their hidden copies in the home folder, ``store/KEY`` in the artifact store, ``tables/vec_…`` in
PostgreSQL. A folder or key is removed after this database has known it for a grace period, so a service that is started
with a wrong database removes nothing at once.

The output of a run is garbage only when the run cannot register it any more: the run has succeeded or does not exist.
Garbage is therefore never named later, and no lock is needed between finding and removing it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import delete, select, union
from sqlalchemy.orm import Session

from lcl_core.common.files import remove_tree
from lcl_core.db.artifact_store import ArtifactStore
from lcl_core.db.artifacts import home_id
from lcl_core.db.models import OUTPUT_FOLDERS, CollectionRow, Dataset, DatasetVersion, EncoderRow, Garbage, Run
from lcl_core.db.outbox import referenced_keys
from lcl_core.db.pgvector import drop_vectors, orphaned_tables
from lcl_core.db.session import Database, dialect_insert, now
from lcl_core.db.states import State

_FOLDERS = {"runs": "run", **OUTPUT_FOLDERS}
_DIGITS = "[0-9a-hjkmnp-tv-z]{18}"
_FOLDER_NAME = r"(?P<hidden>\.(?:import-)?)?(?P<prefix>{prefix})_(?P<digits>{digits})(?:\.[0-9a-f]{{8}})?"
_REMOVED = re.compile(r"\.removed-[0-9a-f]{16}")
_STORE, _TABLES = "store/", "tables/"  # prefixes of the paths of orphans
StoredKeys = Mapping[str, int] | None  # {key of the artifact store: bytes}, as listed; None: not listed


@dataclass(frozen=True)
class Orphan:
    """A folder, a key of the artifact store, or pgvector tables that no row names."""

    path: str  # relative to the home folder, or ``store/…`` or ``tables/…``
    bytes: int  # that its removal frees: without files that have further hard links
    seen_at: datetime | None  # when this database recorded it; None: not yet
    due: bool  # the grace period is over


def list_garbage(session: Session, home: Path, grace_seconds: float, stored: StoredKeys = None) -> list[Orphan]:
    """Everything that no row names; only reads.

    Args:
        stored: keys of the artifact store, as ``ArtifactStore.list_keys`` returned them before the call.
    """
    recorded = {(row.home, row.path): row.seen_at for row in session.scalars(select(Garbage))}
    latest = now(session) - timedelta(seconds=grace_seconds)
    orphans = []
    for location, paths in _find_orphans(session, home, stored).items():
        for path in paths:
            seen_at = recorded.get((location, path))
            size = _freed_bytes(Path(home) / path) if location else (stored or {})[path]
            orphan = path if location else f"{_STORE}{path}"
            orphans.append(Orphan(orphan, size, seen_at, seen_at is not None and seen_at <= latest))
    # tables are in this very database, so a wrong database cannot be the cause: no grace
    return orphans + [Orphan(_TABLES + name, size, None, True) for name, size in orphaned_tables(session).items()]


def record_garbage(session: Session, home: Path, grace_seconds: float, stored: StoredKeys = None) -> list[Orphan]:
    """``list_garbage``, with new orphans recorded and records of others deleted. Records of other homes stay."""
    moment = now(session)
    for location, paths in _find_orphans(session, home, stored).items():
        known = set(session.scalars(select(Garbage.path).where(Garbage.home == location)))
        for path in sorted(known.difference(paths)):  # in the same order in all processes, against deadlocks
            session.execute(delete(Garbage).where(Garbage.home == location, Garbage.path == path))
        if new := [{"home": location, "path": path, "seen_at": moment} for path in sorted(paths) if path not in known]:
            # another process may have recorded the same orphans meanwhile
            session.execute(dialect_insert(session, Garbage).on_conflict_do_nothing(), new)
    return list_garbage(session, home, grace_seconds, stored)


def remove_garbage(database: Database, home: Path, paths: Iterable[str], store: ArtifactStore | None = None) -> None:
    """Remove orphans by their paths. Those that another process removes meanwhile are skipped.

    Raises: OSError; UserError ``store_unreachable``.
    """
    for path in paths:
        if path.startswith(_TABLES):
            drop_vectors(database, path.removeprefix(_TABLES))
        elif not path.startswith(_STORE):
            remove_tree(Path(home) / path)
        elif store is not None:
            store.remove(path.removeprefix(_STORE))


def collect_garbage(
    database: Database, home: Path, grace_seconds: float, store: ArtifactStore | None = None, stored: StoredKeys = None
) -> list[Orphan]:
    """Record garbage, and remove what is due. Several processes may do so at once.

    Returns: what was due. Raises: OSError, UNREACHABLE; UserError ``store_unreachable``.
    """
    with database.session() as session:
        due = [orphan for orphan in record_garbage(session, home, grace_seconds, stored) if orphan.due]
    remove_garbage(database, home, [orphan.path for orphan in due], store)
    return due


def _find_orphans(session: Session, home: Path, stored: StoredKeys) -> dict[str, list[str]]:
    """{id of the home, or "" for the artifact store: paths or keys that no row names}."""
    orphans = {home_id(home): _unreferenced(session, list(_list_folders(home)))}
    if stored is not None:
        referenced = referenced_keys(session)
        orphans[""] = sorted(key for key in stored if key not in referenced)
    return orphans


def _list_folders(home: Path) -> Iterator[str]:
    """Folders whose names the service makes, without symbolic links."""
    for folder, prefix in _FOLDERS.items():
        pattern = re.compile(_FOLDER_NAME.format(prefix=prefix, digits=_DIGITS))
        parent = Path(home) / folder
        for entry in sorted(parent.iterdir()) if parent.is_dir() else ():
            matches = pattern.fullmatch(entry.name) or _REMOVED.fullmatch(entry.name)
            if matches and entry.is_dir() and not entry.is_symlink():
                yield f"{folder}/{entry.name}"


def _unreferenced(session: Session, candidates: list[str]) -> list[str]:
    if not candidates:
        return []
    paths = union(*(select(model.path) for model in (EncoderRow, CollectionRow, Dataset, DatasetVersion)))
    referenced = set(session.scalars(paths))
    states = dict(session.execute(select(Run.id, Run.state)).tuples().all())
    return [path for path in candidates if path not in referenced and not _may_be_referenced(path, states)]


def _may_be_referenced(path: str, states: dict[str, str]) -> bool:
    """Whether the run of the folder still needs it, or may still register it. ``states``: of all runs."""
    folder, _, name = path.partition("/")
    match = re.fullmatch(_FOLDER_NAME.format(prefix=_FOLDERS[folder], digits=_DIGITS), name)
    if match is None:
        return False  # a folder whose removal was interrupted
    state = states.get(f"run_{match['digits']}")
    if folder == "runs":
        return state is not None
    return state not in (None, State.SUCCEEDED.value)


def _freed_bytes(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):  # skips what another process removes meanwhile, unlike Path.rglob
        for name in names:
            with suppress(FileNotFoundError):
                status = os.lstat(os.path.join(parent, name))
                total += status.st_size if status.st_nlink == 1 and stat.S_ISREG(status.st_mode) else 0
    return total
