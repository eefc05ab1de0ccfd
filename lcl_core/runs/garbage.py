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

from lcl_core.runs.artifacts import remove_tree
from lcl_core.runs.database import Database, insert_into, now
from lcl_core.runs.deposits import named_places
from lcl_core.runs.depot import Depot
from lcl_core.runs.home import home_id
from lcl_core.runs.states import State
from lcl_core.runs.tables import Collection, Dataset, DatasetVersion, Encoder, Garbage, Run
from lcl_core.runs.vector_tables import drop_vectors, unnamed_vectors

_FOLDERS = {"runs": "run", "encoders": "enc", "collections": "col", "datasets": "data"}
_DIGITS = "[0-9a-hjkmnp-tv-z]{18}"
_NAMED = r"(?P<hidden>\.(?:import-)?)?(?P<prefix>{prefix})_(?P<digits>{digits})(?:\.[0-9a-f]{{8}})?"
_REMOVED = re.compile(r"\.removed-[0-9a-f]{16}")
Stored = Mapping[str, int] | None


_STORE, _TABLES = "store/", "tables/"  # how the paths of what lies there begin


@dataclass(frozen=True)
class Leftover:
    """A folder, or tables with the vectors of a collection, that no row names."""

    path: str  # relative to home
    bytes: int  # that its removal frees: files that are linked elsewhere too are not counted
    seen_at: datetime | None  # None: nobody has noted it yet
    due: bool  # the grace is over


def list_garbage(session: Session, home: Path, grace_seconds: float, stored: Stored = None) -> list[Leftover]:
    """What no row names, by path; only looks.

    Args:
        stored: places in the store of artifacts and their bytes, listed before (``Depot.places``); None: not looked at.
    """
    noted = {(row.home, row.path): row.seen_at for row in session.scalars(select(Garbage))}
    latest = now(session) - timedelta(seconds=grace_seconds)
    unnamed = _unnamed_in_all(session, home, stored)
    found = []
    for where, paths in unnamed.items():
        for path in paths:
            seen_at = noted.get((where, path))
            size = (stored or {})[path] if where == "" else _bytes(Path(home) / path)
            shown = f"{_STORE}{path}" if where == "" else path
            found.append(Leftover(shown, size, seen_at, seen_at is not None and seen_at <= latest))
    # they are rows of this very database, so that no wrong one can have been asked: no grace
    return found + [Leftover(_TABLES + name, size, None, True) for name, size in unnamed_vectors(session).items()]


def note_garbage(session: Session, home: Path, grace_seconds: float, stored: Stored = None) -> list[Leftover]:
    """The same, and note since when; what is named again, or gone, is forgotten. Other homes' notes stay."""
    moment = now(session)
    for where, paths in _unnamed_in_all(session, home, stored).items():
        known = set(session.scalars(select(Garbage.path).where(Garbage.home == where)))
        for path in sorted(known.difference(paths)):  # in one order everywhere: two never wait for each other crosswise
            session.execute(delete(Garbage).where(Garbage.home == where, Garbage.path == path))
        if new := [{"home": where, "path": path, "seen_at": moment} for path in sorted(paths) if path not in known]:
            # another may have noted the same since we looked
            session.execute(insert_into(session, Garbage).on_conflict_do_nothing(), new)
    return list_garbage(session, home, grace_seconds, stored)


def remove_garbage(database: Database, home: Path, paths: Iterable[str], depot: Depot | None = None) -> None:
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


def collect(
    database: Database, home: Path, grace_seconds: float, depot: Depot | None = None, stored: Stored = None
) -> list[Leftover]:
    """Note, and remove what is due. Safe to do by several at once.

    Returns: what was. Raises: OSError, UNREACHABLE; UserError ``store_unreachable``.
    """
    with database.session() as session:
        due = [found for found in note_garbage(session, home, grace_seconds, stored) if found.due]
    remove_garbage(database, home, [found.path for found in due], depot)
    return due


def _unnamed_in_all(session: Session, home: Path, stored: Stored) -> dict[str, list[str]]:
    """By the home's id, and "" for the store if that was looked at."""
    found = {home_id(home): _unnamed(session, list(_candidates(home)))}
    if stored is not None:
        named = named_places(session)
        found[""] = sorted(place for place in stored if place not in named)
    return found


def _candidates(home: Path) -> Iterator[str]:
    """Folders by the service's own names; a link is nobody's leftover."""
    for folder, prefix in _FOLDERS.items():
        own = re.compile(_NAMED.format(prefix=prefix, digits=_DIGITS))
        place = Path(home) / folder
        for entry in sorted(place.iterdir()) if place.is_dir() else ():
            ours = own.fullmatch(entry.name) or _REMOVED.fullmatch(entry.name)
            if ours and entry.is_dir() and not entry.is_symlink():
                yield f"{folder}/{entry.name}"


def _unnamed(session: Session, candidates: list[str]) -> list[str]:
    named = {path for model in (Encoder, Collection, Dataset, DatasetVersion) for path in _paths(session, model)}
    states = dict(session.execute(select(Run.id, Run.state)).tuples().all()) if candidates else {}
    return [path for path in candidates if path not in named and not _may_be_wanted(path, states)]


def _paths(session: Session, model: type[Encoder | Collection | Dataset | DatasetVersion]) -> Iterable[str]:
    return session.scalars(select(model.path))


def _may_be_wanted(path: str, states: dict[str, str]) -> bool:
    folder, _, name = path.partition("/")
    found = re.fullmatch(_NAMED.format(prefix=_FOLDERS[folder], digits=_DIGITS), name)
    if found is None:
        return False  # a folder whose removal was broken off
    state = states.get(f"run_{found['digits']}")
    if folder == "runs":
        return state is not None
    return state not in (None, State.SUCCEEDED.value)


def _bytes(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):  # passes over what another is removing, as Path.rglob does not
        for name in names:
            try:
                facts = os.lstat(os.path.join(place, name))
            except FileNotFoundError:
                continue
            total += facts.st_size if facts.st_nlink == 1 and stat.S_ISREG(facts.st_mode) else 0
    return total
