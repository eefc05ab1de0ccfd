"""Garbage collection: folders, store keys and indexes that no row names.

Candidates have names that the service makes: ``runs/run_…``, ``encoders/enc_…``, ``collections/col_…``,
``datasets/data_…`` and their hidden copies in the home folder, ``data/uploads/upl_…``, ``store/KEY`` in the artifact
store. A folder or key is removed after this database has known it for a grace period,
so a service that is started with a wrong database removes nothing at once, and one whose database is restored from a
backup, or has lost its last transactions, still has what the rows name. The grace of an index on a server
(``indexes/…``) begins with the transaction that supersedes it; other indexes there may be another service's.

The output of a run is garbage only when the run cannot register it any more: the run has succeeded or does not exist.
Garbage is therefore never named later, and no lock is needed between finding and removing it. Keys of checkpoints are
garbage only while no worker has their run; each attempt has keys of its own, so a later one never names them. Folders
and keys are listed outside of transactions: a file system may be slow.

A folder that no row names any more may still be read: a name moves to a new folder while runs are executed. What an
unfinished run reads is kept.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import structlog
from sqlalchemy import ColumnElement, Text, cast, delete, literal, select, union
from sqlalchemy.orm import InstrumentedAttribute, Session

from lcl_core.common.disk_cache import no_progress
from lcl_core.common.errors import UserError
from lcl_core.common.files import remove_tree
from lcl_core.common.run_dir import RunDir
from lcl_core.common.settings import Settings
from lcl_core.db.artifact_store import ArtifactStore
from lcl_core.db.artifacts import Artifacts, home_id
from lcl_core.db.models import (
    OUTPUT_FOLDERS,
    UPLOAD_PREFIX,
    UPLOADS_FOLDER,
    ArtifactUpload,
    CollectionRow,
    Dataset,
    DatasetVersion,
    EncoderRow,
    Garbage,
    Run,
    StoredBytes,
    Study,
)
from lcl_core.db.outbox import attempt_of_key, record_run_folder, referenced_keys
from lcl_core.db.quotas import delete_bytes, folder_bytes
from lcl_core.db.session import Database, dialect_insert, now
from lcl_core.db.states import FINISHED, LEASED, State
from lcl_core.db.studies import ENDED_STATES, study_statuses
from lcl_core.db.workers import claim_task, release_task
from lcl_core.vector_indexes import IndexLocation, drop_index, index_writer

_FOLDERS = {"runs": "run", **OUTPUT_FOLDERS, UPLOADS_FOLDER: UPLOAD_PREFIX}
_DIGITS = "[0-9a-hjkmnp-tv-z]{18}"
_FOLDER_NAME = r"(?P<hidden>\.(?:import-)?)?(?P<prefix>{prefix})_(?P<digits>{digits})(?:\.[0-9a-f]{{8}})?"
_REMOVED = re.compile(r"\.removed-[0-9a-f]{16}")
_STORE, _INDEXES = "store/", "indexes/"  # prefixes of the paths of orphans
_ON_SERVER = "indexes"  # in place of the id of a home
_ANY_ID = re.compile(f"_({_DIGITS})")
_ANY_UPLOAD = re.compile(rf"{UPLOAD_PREFIX}_{_DIGITS}")
_RESTING = [state.value for state in (State.FAILED, State.CANCELLED, State.PAUSED)]  # no worker ends them
_NO_ATTEMPT = -1
_BATCH = 500  # folders or keys that are compared with the rows in one transaction
StoredKeys = Iterable[tuple[str, int]] | None  # (key of the artifact store, bytes), as listed; None: not listed
Item = TypeVar("Item")
_STORE_TASK = "garbage/store"
log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Orphan:
    """A folder, a key of the artifact store, or an index that no row names."""

    path: str  # relative to the home folder, or ``store/…`` or ``indexes/…``
    bytes: int  # that its removal frees: without files that have further hard links
    seen_at: datetime | None  # when this database recorded it; None: not yet
    due: bool  # the grace period is over


def list_garbage(database: Database, home: Path, grace_seconds: float, stored: StoredKeys = None) -> list[Orphan]:
    """Everything that no row names; only reads.

    Args:
        stored: keys of the artifact store, from ``ArtifactStore.iter_keys``.

    Raises: OSError, UNREACHABLE; UserError ``store_unreachable``.
    """
    orphans = list(_find_orphans(database, home, grace_seconds, stored, record=False))
    return [*orphans, *_list_indexes(database, grace_seconds)]


def record_garbage(
    database: Database,
    home: Path,
    grace_seconds: float,
    stored: StoredKeys = None,
    progress: Callable[[], None] = no_progress,
) -> list[Orphan]:
    """``list_garbage``, with new orphans recorded and records of others deleted. Records of other homes stay.

    No transaction is open while folders and keys are listed. ``progress`` is called between its batches.
    """
    with database.reading() as session:
        started = now(session)
    orphans = []
    for orphan in _find_orphans(database, home, grace_seconds, stored, record=True):
        orphans.append(orphan)
        progress()
    _forget_others(database, home_id(home), {orphan.path for orphan in orphans}, started)
    if stored is not None:
        keys = {orphan.path.removeprefix(_STORE) for orphan in orphans if orphan.path.startswith(_STORE)}
        _forget_others(database, "", keys, started)
    return [*orphans, *_list_indexes(database, grace_seconds)]


def record_unused_index(session: Session, vectors: str | None) -> None:
    """Record an index of a collection that no row names any more; one on a server is removed after its grace."""
    if index_writer(vectors) == "worker":
        row = dialect_insert(session, Garbage).values(home=_ON_SERVER, path=vectors, seen_at=now(session))
        session.execute(row.on_conflict_do_nothing())


def remove_garbage(
    database: Database,
    home: Path,
    paths: Iterable[str],
    store: ArtifactStore | None = None,
    settings: Settings | None = None,
) -> None:
    """Remove orphans by their paths. Those that another process removes meanwhile are skipped.

    Args:
        settings: name the servers of indexes. An index whose server does not answer stays recorded.

    Raises: OSError; UserError ``store_unreachable``.
    """
    for path in paths:
        if path.startswith(_INDEXES):
            _remove_index(database, path.removeprefix(_INDEXES), settings)
        elif not path.startswith(_STORE):
            if path.startswith(UPLOADS_FOLDER):  # no row names it, with which its charge would be deleted
                with database.session() as session:
                    delete_bytes(session, path)
            remove_tree(Path(home) / path)
        elif store is not None:
            store.remove(path.removeprefix(_STORE))


def collect_garbage(
    database: Database,
    home: Path,
    grace_seconds: float,
    store: ArtifactStore | None = None,
    stored: StoredKeys = None,
    progress: Callable[[], None] = no_progress,
    settings: Settings | None = None,
) -> list[Orphan]:
    """Record garbage, and remove what is due. Several processes may do so at once.

    Args:
        settings: as of ``remove_garbage``.

    Returns: what was due. Raises: OSError, UNREACHABLE; UserError ``store_unreachable``.
    """
    due = [orphan for orphan in record_garbage(database, home, grace_seconds, stored, progress) if orphan.due]
    for orphan in due:
        remove_garbage(database, home, [orphan.path], store, settings)
        progress()
    return due


def collect_for_all(
    database: Database, settings: Settings, artifacts: Artifacts, worker_id: str, seconds: float
) -> int:
    """Remove folders of the home and of the store that no row names, unless another process did so in ``seconds``.

    Folders of the home's runs that no worker has recorded are charged to their owners, and uploaded.

    Args:
        worker_id: of this process, a worker or the api.

    Returns: the number of removed folders. Raises: OSError, UNREACHABLE; UserError of the store.
    """
    home_task = f"garbage/{home_id(artifacts.home)}"
    with database.session() as session:
        if not claim_task(session, home_task, worker_id, seconds):
            return 0
        # only by a process that has the home's task: another one would block those that collect
        lists_store = bool(settings.artifacts) and claim_task(session, _STORE_TASK, worker_id, seconds)
    renew = _TaskRenewal(database, [home_task, *([_STORE_TASK] if lists_store else [])], worker_id, seconds)
    try:
        for run_id in record_run_folders(database, artifacts.home, artifacts.holder, renew):
            log.info("run_folder_recorded", run=run_id)
        store = artifacts.store if lists_store else None
        stored = None if store is None else store.iter_keys()
        removed = _collect_all(database, settings, artifacts, store, stored, renew)
    except Exception:
        renew.release()
        raise
    for orphan in removed:
        log.info("collected", path=orphan.path, bytes=orphan.bytes)
    return len(removed)


def _collect_all(
    database: Database,
    settings: Settings,
    artifacts: Artifacts,
    store: ArtifactStore | None,
    stored: StoredKeys,
    renew: Callable[[], None],
) -> list[Orphan]:
    """The garbage of the home can be removed also when the store does not answer."""
    grace = settings.gc_grace_seconds
    try:
        return collect_garbage(database, artifacts.home, grace, store, stored, renew, settings)
    except UserError as error:
        log.warning("store_not_listed", error=str(error))
        return collect_garbage(database, artifacts.home, grace, progress=renew, settings=settings)


class _TaskRenewal:
    """Renews the leases of periodic tasks when it is called, before half of their time is over."""

    def __init__(self, database: Database, names: Sequence[str], worker_id: str, seconds: float) -> None:
        self._database, self._names, self._worker_id, self._seconds = database, names, worker_id, seconds
        self._renewed = time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() < self._renewed + self._seconds / 2:
            return
        self._renewed = time.monotonic()
        with self._database.session() as session:
            for name in self._names:
                claim_task(session, name, self._worker_id, self._seconds)

    def release(self) -> None:
        with self._database.session() as session:
            for name in self._names:
                release_task(session, name, self._worker_id)


def record_run_folders(
    database: Database, home: Path, holder: str | None, progress: Callable[[], None] = no_progress
) -> list[str]:
    """Charge and upload folders of runs whose last attempt no worker ended: it was lost, or cancelled afterwards.

    Args:
        holder: id of the home, if its folders are to be uploaded to an artifact store.

    Returns: ids of those runs. Raises: OSError, UNREACHABLE.
    """
    recorded = []
    for folders in _batches(path for path in _list_folders(home) if path.startswith("runs/run_")):
        with database.reading() as session:
            runs = _unrecorded_runs(session, [path.removeprefix("runs/") for path in folders], holder)
        for run_id, attempt, recorded_attempt in runs:
            run_dir = RunDir(Path(home) / "runs" / run_id)
            if (last := _attempt_of(run_dir)) < attempt or last <= recorded_attempt:
                continue  # another home has the last attempt, or it is recorded
            size = folder_bytes(run_dir.path, shared=False)
            with database.session() as session:
                query = select(Run).where(Run.id == run_id, Run.state.in_(_RESTING)).with_for_update(of=Run)
                run = session.scalars(query).one_or_none()
                if run is None:
                    continue
                if run.state in FINISHED:
                    run.attempt = last  # the next attempt gets a number, and a key in the store, of its own
                record_run_folder(session, run, size, holder)
            recorded.append(run_id)
            progress()
    return recorded


def _unrecorded_runs(session: Session, run_ids: list[str], holder: str | None) -> list[tuple[str, int, int]]:
    """Of those runs that rest after an interruption, and whose folder may be uncharged or not uploaded.

    Returns: (id, attempt, attempt whose folder is recorded; -1 for none).
    """
    path = literal("runs/") + Run.id
    query = (
        select(Run.id, Run.attempt, Run.state, StoredBytes.path, ArtifactUpload.key, ArtifactUpload.pending)
        .outerjoin(StoredBytes, StoredBytes.path == path)
        .outerjoin(ArtifactUpload, ArtifactUpload.path == path)
        .where(Run.id.in_(run_ids), Run.state.in_(_RESTING), Run.interruption.is_not(None))
    )
    found = []
    for run_id, attempt, state, charged, key, pending in session.execute(query).tuples():
        if charged is None:
            found.append((run_id, attempt, _NO_ATTEMPT))
        elif holder is not None and state in FINISHED:
            # an upload may be of an attempt before a resume, and the folder of a later one
            uploaded = _NO_ATTEMPT if key is None else attempt_of_key(key)
            found.append((run_id, attempt, max(uploaded, _NO_ATTEMPT if pending is None else pending)))
    return found


def _attempt_of(run_dir: RunDir) -> int:
    """Number of the attempt that prepared the folder last; -1: none did."""
    try:
        return int(run_dir.read_run()["attempt"])
    except (OSError, ValueError, KeyError):
        return -1


def _find_orphans(
    database: Database, home: Path, grace_seconds: float, stored: StoredKeys, *, record: bool
) -> Iterator[Orphan]:
    """Folders and keys that no row names, found in batches: listed first, then compared with the rows."""
    location = home_id(home)
    for folders in _batches(_list_folders(home)):
        with database.reading() as session:
            orphans = _unreferenced(session, folders)
        seen = _seen_at(database, location, orphans, record=record)
        latest = _latest(database, grace_seconds)
        for path in orphans:
            yield Orphan(path, _freed_bytes(Path(home) / path), seen.get(path), _is_due(seen.get(path), latest))
    for entries in _batches(stored or ()):
        sizes = dict(entries)
        with database.reading() as session:
            referenced = referenced_keys(session, {key.rpartition("/")[0] for key in sizes})
            at_work = _runs_at_work(session, sizes)
        keys = [key for key in sizes if key not in referenced and _run_of_checkpoint(key) not in at_work]
        seen = _seen_at(database, "", keys, record=record)
        latest = _latest(database, grace_seconds)
        for key in keys:
            yield Orphan(f"{_STORE}{key}", sizes[key], seen.get(key), _is_due(seen.get(key), latest))


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, _BATCH)):
        yield batch


def _latest(database: Database, grace_seconds: float) -> datetime:
    """What has been recorded since then is kept."""
    with database.reading() as session:
        return now(session) - timedelta(seconds=grace_seconds)


def _is_due(seen_at: datetime | None, latest: datetime) -> bool:
    return seen_at is not None and seen_at <= latest


def _seen_at(database: Database, location: str, paths: Collection[str], *, record: bool) -> dict[str, datetime]:
    """{path: since when it is recorded as garbage}; ``record``: those that are new are recorded now."""
    query = select(Garbage.path, Garbage.seen_at).where(Garbage.home == location, Garbage.path.in_(paths))
    with database.reading() as session:
        seen = dict(session.execute(query).tuples().all())
    new = sorted(set(paths).difference(seen))  # in the same order in all processes, against deadlocks
    if not (record and new):
        return seen
    with database.session() as session:
        moment = now(session)
        rows = [{"home": location, "path": path, "seen_at": moment} for path in new]
        # another process may have recorded the same orphans meanwhile
        session.execute(dialect_insert(session, Garbage).on_conflict_do_nothing(), rows)
    return seen | dict.fromkeys(new, moment)


def _forget_others(database: Database, location: str, paths: Collection[str], before: datetime) -> None:
    """Delete the records of what is not garbage any more; those that are newer than the listing stay."""
    with database.reading() as session:
        recorded = session.scalars(select(Garbage.path).where(Garbage.home == location, Garbage.seen_at < before))
        obsolete = sorted(set(recorded).difference(paths))
    for batch in _batches(obsolete):
        with database.session() as session:
            session.execute(delete(Garbage).where(Garbage.home == location, Garbage.path.in_(batch)))


def _list_indexes(database: Database, grace_seconds: float) -> list[Orphan]:
    """Recorded indexes on servers, whose sizes are not known here."""
    named = select(CollectionRow.id).where(CollectionRow.vectors == Garbage.path).exists()
    query = select(Garbage.path, Garbage.seen_at).where(Garbage.home == _ON_SERVER, ~named).order_by(Garbage.path)
    latest = _latest(database, grace_seconds)
    with database.reading() as session:
        recorded = session.execute(query).tuples().all()
    return [Orphan(_INDEXES + name, 0, seen_at, _is_due(seen_at, latest)) for name, seen_at in recorded]


def _remove_index(database: Database, name: str, settings: Settings | None) -> None:
    if drop_index(name, IndexLocation(settings=settings)):
        with database.session() as session:
            session.execute(delete(Garbage).where(Garbage.home == _ON_SERVER, Garbage.path == name))


def _list_folders(home: Path) -> Iterator[str]:
    """Folders whose names the service makes, without symbolic links."""
    for folder, prefix in _FOLDERS.items():
        pattern = re.compile(_FOLDER_NAME.format(prefix=prefix, digits=_DIGITS))
        with suppress(FileNotFoundError), os.scandir(Path(home) / folder) as entries:
            for entry in entries:
                matches = pattern.fullmatch(entry.name) or _REMOVED.fullmatch(entry.name)
                if matches and entry.is_dir(follow_symlinks=False):
                    yield f"{folder}/{entry.name}"


def _unreferenced(session: Session, candidates: list[str]) -> list[str]:
    tables = (EncoderRow, CollectionRow, Dataset, DatasetVersion)
    paths = union(*(select(model.path).where(model.path.in_(candidates)) for model in tables))
    referenced = set(session.scalars(paths))
    runs = {f"run_{digits[1]}" for path in candidates if (digits := _ANY_ID.search(path))}
    states = dict(session.execute(select(Run.id, Run.state).where(Run.id.in_(runs))).tuples().all())
    referenced |= _read_folders(session)
    used = _used_uploads(session) if any(path.startswith(UPLOADS_FOLDER) for path in candidates) else frozenset()
    return [
        path
        for path in candidates
        if path not in referenced and path.rpartition("/")[2] not in used and not _may_be_referenced(path, states)
    ]


def _read_folders(session: Session) -> set[str]:
    """Stored paths of the folders that unfinished runs read, as their last attempt recorded them."""
    inputs = session.scalars(select(Run.inputs).where(Run.state.not_in(FINISHED), Run.inputs.is_not(None)))
    return {path for read in inputs if read is not None for path in read.get("folders", ())}


def _used_uploads(session: Session) -> frozenset[str]:
    """Ids of the uploads that a dataset, or any field of an unfinished run's or study's spec, names by a path inside.

    Ids are searched in the text of the specs.
    """
    paths = union(
        *(select(model.path).where(model.path.contains(UPLOADS_FOLDER)) for model in (Dataset, DatasetVersion))
    )
    runs = select(cast(Run.spec, Text)).where(Run.state.not_in(FINISHED), _names_upload(Run.spec))
    # the evaluations of a study are submitted after its pre-trainings
    studies = session.scalars(select(Study).where(Study.cancelled_at.is_(None), _names_upload(Study.spec))).all()
    statuses = study_statuses(session, studies) if studies else {}
    active = [str(study.spec) for study in studies if statuses[study.id].state not in ENDED_STATES]
    texts = [*session.scalars(paths), *session.scalars(runs), *active]
    return frozenset(upload for text in texts for upload in _ANY_UPLOAD.findall(text))


def _names_upload(spec: InstrumentedAttribute[dict[str, Any]]) -> ColumnElement[bool]:
    return cast(spec, Text).contains(f"{UPLOAD_PREFIX}_", autoescape=True)


def _may_be_referenced(path: str, states: dict[str, str]) -> bool:
    """Whether the run of the folder still needs it, or may still register it. ``states``: of the runs that exist."""
    folder, _, name = path.rpartition("/")
    match = re.fullmatch(_FOLDER_NAME.format(prefix=_FOLDERS[folder], digits=_DIGITS), name)
    if match is None:
        return False  # a folder whose removal was interrupted
    state = states.get(f"run_{match['digits']}")
    if folder == UPLOADS_FOLDER:
        return False
    if folder == "runs":
        return state is not None
    return state not in (None, State.SUCCEEDED.value)


def _run_of_checkpoint(key: str) -> str | None:
    folder, _, rest = key.partition("/")
    return rest.partition("/")[0] if folder == "checkpoints" else None


def _runs_at_work(session: Session, keys: Iterable[str]) -> set[str]:
    """Of the runs of these keys of checkpoints, those whose worker may name a key that it still uploads to."""
    runs = {run_id for key in keys if (run_id := _run_of_checkpoint(key)) is not None}
    leased = [state.value for state in LEASED]
    return set(session.scalars(select(Run.id).where(Run.id.in_(runs), Run.state.in_(leased)))) if runs else set()


def _freed_bytes(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):  # skips what another process removes meanwhile, unlike Path.rglob
        for name in names:
            with suppress(FileNotFoundError):
                status = os.lstat(os.path.join(parent, name))
                total += status.st_size if status.st_nlink == 1 and stat.S_ISREG(status.st_mode) else 0
    return total
