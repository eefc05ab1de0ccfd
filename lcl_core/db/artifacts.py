"""Folders that rows name: opened in this home or fetched from the artifact store, sent to it, and discarded.

Several machines, each with a home folder of its own, may share a database: ``home_id`` identifies a home. An upload is
enqueued in the transaction that registers the folder, and made afterwards by a process of its home. A store that does
not answer therefore delays no run: a failed upload is due again after a doubling delay.

The store has a folder's files under ``KEY/files/``. KEY is ``encoders/enc_…/ATTEMPT`` and the like, of a checkpoint
``checkpoints/run_…/step_00000100/ATTEMPT_ID``. A row names a key once all its files are there, with their SHA-256.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

import lcl_core
from lcl_core.common.disk_cache import FolderCache, no_progress
from lcl_core.common.errors import Busy, UserError
from lcl_core.common.files import fsync_path, read_or_create, regular_files, sha256_file
from lcl_core.common.settings import Settings
from lcl_core.common.storage import Storage
from lcl_core.db.models import OUTPUT_FOLDERS, ArtifactUpload, Garbage, output_id
from lcl_core.db.session import UNREACHABLE, Database, dialect_insert, now

CHUNK = 8 << 20  # bytes of one request
CLAIMED_FOR = timedelta(minutes=10)  # renewed while the upload advances
# where a folder is that is to be removed, if not in the home with that id
ANY_HOME, STORE, SERVER = "", "store", "server"
_ATTEMPTS = 3  # most protocol libraries retry as well, and a user may be waiting for the response
_RUN_FILES = ("artifacts/", "log.txt", "metrics.jsonl", "result.json")  # only a resume needs the other files
_FIRST_DELAY, _LONGEST_DELAY = timedelta(seconds=2), timedelta(minutes=10)
_PENDING = ArtifactUpload.pending.is_not(None)
_HOME_ID_FILE = Path("runs") / ".home"  # beside the runs, so that a copy or a backup of them includes it
_PACKAGE_FOLDER, _BUNDLED_FOLDERS = "/lcl_core/", ("data/sample/", "pretrained/")

FileEntries = dict[str, dict[str, Any]]  # {name: {"bytes", "sha256", "modified_at"}}
log = structlog.get_logger(__name__)


def absolute_path(home: Path, stored: str) -> Path:
    """A stored path as an absolute one; a relative one is below ``home``, a bundled one in this installation."""
    return bundled_path(stored) or Path(home).resolve() / stored


def bundled_path(stored: str) -> Path | None:
    """Path in this installation of a file that comes with the product; None: another file, or missing here.

    A row has the path of the installation whose api started last; another machine may have the same file elsewhere.
    """
    _, package, rest = stored.rpartition(_PACKAGE_FOLDER)
    if not package or not rest.startswith(_BUNDLED_FOLDERS):
        return None
    path = Path(lcl_core.__file__).resolve().parent / rest
    return path if path.exists() else None


def home_id(home: Path) -> str:
    """32 hex digits that identify the home folder; the first call creates them. Raises: OSError."""
    return read_or_create(Path(home) / _HOME_ID_FILE, partial(secrets.token_hex, 16))


class ArtifactStore:
    """Client of the store, safe from several threads. Raises StoreError after retries."""

    def __init__(self, url: str) -> None:
        self._storage = Storage(url, _ATTEMPTS)

    def send_folder(self, key: str, folder: Path, progress: Callable[[], None] = no_progress) -> FileEntries:
        """Upload the regular files of a folder; of a run's those that the service shows. ``progress``: before each.

        Raises: UserError ``file_missing``; OSError.
        """
        if not folder.is_dir():
            raise UserError("the folder that was to be sent to the store is gone", code="file_missing", file=folder)
        files: FileEntries = {}
        for name, status in regular_files(folder):
            if folder.parent.name != "runs" or name.startswith(_RUN_FILES):
                progress()
                self.send_file(key, name, folder / name)
                modified = datetime.fromtimestamp(status.st_mtime, UTC).isoformat()
                digest = sha256_file(folder / name)
                files[name] = {"bytes": status.st_size, "sha256": digest, "modified_at": modified}
        return files

    def send_file(self, key: str, name: str, file: Path) -> None:
        """Upload one file of a folder. Raises: OSError."""
        path = f"{key}/files/{name}"
        self._storage.with_retries(path, "written", lambda store, target: store.put_file(str(file), target))

    def read_stream(self, key: str, name: str, start: int, end: int) -> Iterator[bytes]:
        """Bytes ``start`` to ``end`` of a file, in chunks of a few MiB."""
        for first in range(start, end, CHUNK):
            stop = min(first + CHUNK, end)
            data = self._storage.read(f"{key}/files/{name}", first, stop)
            if len(data) != stop - first:
                raise _damaged_error(name)
            yield data

    def download(
        self, key: str, name: str, entry: dict[str, Any], target: Path, progress: Callable[[], None] = no_progress
    ) -> None:
        """Write a file of the store, and flush it. Raises: UserError ``artifact_damaged``; OSError; as ``progress``."""
        digest = hashlib.sha256()
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            for chunk in self.read_stream(key, name, 0, entry["bytes"]):
                digest.update(chunk)
                file.write(chunk)
                progress()
        if digest.hexdigest() != entry["sha256"]:
            raise _damaged_error(name)
        fsync_path(target)

    def remove(self, key: str) -> None:
        """Remove all objects of a key. A key that does not exist is not an error."""
        try:
            self._storage.with_retries(key, "written", lambda store, path: store.rm(path, recursive=True))
        except UserError as error:
            if error.code != "file_missing":
                raise


def _damaged_error(name: str) -> UserError:
    message = "the store does not hold what was sent to it: its bytes differ; restore the object, or run anew"
    return UserError(message, code="artifact_damaged", file=name)


class Artifacts:
    """Opens the store on first use. Without ``LCL_ARTIFACTS`` all folders are in the home folder."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.home = settings.home.resolve()
        self._cache = FolderCache(self.home / "cache" / "artifacts", settings.artifacts_cache_bytes)

    @property
    def holder(self) -> str | None:
        """Id of this home, whose folders are to be uploaded; None: there is no store."""
        return self._home_id if self._settings.artifacts else None

    @cached_property
    def _home_id(self) -> str:
        return home_id(self.home)

    @cached_property
    def store(self) -> ArtifactStore:
        return ArtifactStore(self._settings.artifacts)

    def find_remote_copy(self, session: Session, stored: str) -> ArtifactUpload | None:
        """The upload of a folder whose newest files are in another home; None: read it in this home."""
        if self.holder is None:
            return None
        row = session.get(ArtifactUpload, stored)
        is_local = row is not None and row.holder == self.holder and absolute_path(self.home, stored).is_dir()
        return None if is_local else row

    @contextmanager
    def open_cached(
        self, row: ArtifactUpload, below: str = "", progress: Callable[[], None] = no_progress
    ) -> Iterator[Path]:
        """The uploaded folder, or the folder ``below`` in it, in the cache; not evicted before the end of the block.

        ``progress`` is called repeatedly while this or another process fetches; what it raises ends the call.
        """
        key, prefix = require_uploaded(row), f"{below}/" if below else ""
        files = {name: entry for name, entry in (row.files or {}).items() if name.startswith(prefix)}

        def fetch(folder: Path) -> None:
            for name, entry in files.items():
                target = folder / name.removeprefix(prefix)
                self.store.download(key, name, entry, target, progress)
                modified = datetime.fromisoformat(entry["modified_at"]).timestamp()
                os.utime(target, (modified, modified))

        name, size = f"{key}/{below}".rstrip("/").replace("/", "~"), sum(entry["bytes"] for entry in files.values())
        with ExitStack() as stack:
            try:
                path = stack.enter_context(self._cache.open(name, fetch, size, progress))
            except OSError as error:
                message = f"artifacts cannot be cached here ({error.strerror}); make room, or make the folder writable"
                raise UserError(message, code="home_unusable", file=self._cache.folder) from error
            yield path

    @contextmanager
    def open_folder(self, session: Session, stored: str, below: str = "") -> Iterator[Path]:
        """A folder in this home, or in the cache until the end of the block. Closes ``session`` before it fetches."""
        row = self.find_remote_copy(session, stored)
        if row is None:
            yield absolute_path(self.home, stored) / below
            return
        session.close()
        with self.open_cached(row, below) as path:
            yield path

    def folder(self, session: Session, stored: str, below: str = "") -> Path:
        """``open_folder`` for a use that ends at once."""
        with self.open_folder(session, stored, below) as path:
            return path


def enqueue_upload(session: Session, path: str, attempt: int, holder: str) -> None:
    """Enqueue the upload of a folder of the home ``holder``. An earlier attempt's copy stays until the upload."""
    moment, row = now(session), session.get(ArtifactUpload, path, with_for_update=True)
    if row is None:
        row = ArtifactUpload(path=path)
        session.add(row)
    row.pending, row.holder, row.attempts, row.error = attempt, holder, 0, None
    row.enqueued_at = row.next_at = moment
    session.flush()


def upload_next(database: Database, artifacts: Artifacts) -> bool:
    """Upload one folder of this home that is due, those of runs last; False: none is. Raises: UNREACHABLE."""
    holder = artifacts.holder
    if holder is None:
        return False
    order = ArtifactUpload.path.startswith("runs/"), ArtifactUpload.next_at, ArtifactUpload.path
    with database.reading() as session:  # an idle round opens no write transaction
        due = _PENDING, ArtifactUpload.holder == holder, ArtifactUpload.next_at <= now(session)
        query = select(ArtifactUpload).where(*due).order_by(*order).limit(1)
        if session.scalars(query).first() is None:
            return False
    with database.session() as session:
        claimed = session.scalars(query.with_for_update(of=ArtifactUpload, skip_locked=True)).one_or_none()
        if claimed is None or claimed.pending is None:
            return False
        claimed.attempts += 1
        claimed.next_at = now(session) + CLAIMED_FOR
    path, attempt, tries = claimed.path, claimed.pending, claimed.attempts

    def update(due_in: timedelta, **changes: Any) -> None:
        with database.session() as session:
            row = session.get(ArtifactUpload, path, with_for_update=True)
            # else it was deleted, a later attempt has ended, or another process has begun the upload again
            if row is not None and (row.pending, row.attempts) == (attempt, tries):
                row.next_at = now(session) + due_in
                for name, value in changes.items():
                    setattr(row, name, value)

    def renew() -> None:
        # a database that does not answer for a while stops no upload, and two that overlap write the same files
        with suppress(*UNREACHABLE):
            update(CLAIMED_FOR)

    key = f"{path}/{attempt}"  # an attempt ends once, so every upload to a key has the same files
    try:
        files = artifacts.store.send_folder(key, artifacts.home / path, renew)
    except (UserError, OSError) as error:
        log.warning("artifacts_not_sent", path=path, tries=tries, error=str(error))
        update(min(_FIRST_DELAY * 2 ** min(tries - 1, 20), _LONGEST_DELAY), error=str(error)[:500])
        return True
    update(timedelta(), key=key, files=files, attempt=attempt, pending=None, error=None)
    log.info("artifacts_sent", path=path, files=len(files), bytes=sum(each["bytes"] for each in files.values()))
    return True


def require_uploaded(row: ArtifactUpload) -> str:
    """Key of the folder in the store."""
    if row.key is None:
        error = f" ({row.error})" if row.error else ""
        message = (
            f"the files of {row.path} are still on the machine that made them and on their way to the store{error}; "
            "try again in a while, and see that a worker of that machine is running"
        )
        raise Busy(message, code="artifacts_pending")
    return row.key


def pending_uploads(session: Session) -> tuple[int, float]:
    """Number of folders that are not in the store yet, and seconds for which the first of them has waited."""
    oldest = func.min(ArtifactUpload.enqueued_at, type_=ArtifactUpload.enqueued_at.type)
    count, since = session.execute(select(func.count(), oldest).where(_PENDING)).tuples().one()
    return count, max(0.0, (now(session) - since).total_seconds()) if since else 0.0


def runs_with_pending_uploads(session: Session, run_ids: Sequence[str]) -> dict[str, str | None]:
    """{run id: error of the last upload, or None} of those runs with a folder that is not in the store yet."""
    run_of = {path: run_id for run_id in run_ids for path in (f"runs/{run_id}", *output_paths(run_id))}
    query = select(ArtifactUpload.path, ArtifactUpload.error).where(_PENDING, ArtifactUpload.path.in_(run_of))
    errors: dict[str, str | None] = {}
    for path, error in session.execute(query).tuples():
        errors[run_of[path]] = errors.get(run_of[path]) or error
    return errors


def output_paths(run_id: str) -> list[str]:
    """Paths that the output of a run may have."""
    return [f"{folder}/{output_id(prefix, run_id)}" for folder, prefix in OUTPUT_FOLDERS.items()]


def discard_folder(session: Session, path: str) -> None:
    """Record that no row names the folder any more: ``lcl_core.db.garbage`` removes it and its copy in the store."""
    row = session.get(ArtifactUpload, path)
    if row is None:
        discard(session, ANY_HOME, path)
        return
    discard(session, row.holder, path)
    discard(session, STORE, path)
    session.delete(row)
    session.flush()


def discard(session: Session, home: str, path: str) -> None:
    """Record a folder to remove. ``home``: id of its home, ``STORE``, ``SERVER`` or ``ANY_HOME``."""
    moment = now(session)
    row = dialect_insert(session, Garbage).values(home=home, path=path, seen_at=moment)
    session.execute(row.on_conflict_do_update(index_elements=["home", "path"], set_={"seen_at": moment}))


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint of a run whose copy in the store is complete. ``attempt``: of the run that copied it."""

    step: int
    attempt: int
    key: str
    files: FileEntries

    @property
    def content(self) -> str:
        """SHA-256 of the checkpoint's own manifest, which identifies it."""
        return str(self.files["checkpoint/manifest.json"]["sha256"])


def stored_checkpoints(session: Session, run_id: str) -> list[StoredCheckpoint]:
    """Those that the rows name, newest first."""
    rows = _checkpoint_rows(session, run_id)
    return [
        StoredCheckpoint(step, row.attempt or 0, row.key, row.files)
        for step, row in sorted(rows.items(), reverse=True)
        if row.key is not None and row.files is not None
    ]


def record_stored_checkpoint(
    session: Session, run_id: str, holder: str, stored: StoredCheckpoint, newest: int, keep: int, every: int | None
) -> list[str]:
    """Name a checkpoint that has been copied; of all up to step ``newest``, keep the last ``keep`` and each ``every``.

    ``newest`` is the newest that this attempt has: later ones are damaged, or of an attempt that has lost its lease.
    The caller has locked the run under its lease. Returns: keys that no row names any more.
    """
    rows = _checkpoint_rows(session, run_id)
    before = {row.key for row in rows.values() if row.key is not None}
    if stored.step not in rows:
        path, moment = f"checkpoints/{run_id}/step_{stored.step:08d}", now(session)
        rows[stored.step] = ArtifactUpload(path=path, enqueued_at=moment, next_at=moment)
        session.add(rows[stored.step])
    row = rows[stored.step]
    row.key, row.files, row.attempt, row.holder = stored.key, stored.files, stored.attempt, holder
    past = sorted((step for step in rows if step <= newest), reverse=True)
    kept = {*past[:keep], *(step for step in past if every is not None and step % every == 0)}
    for step in rows.keys() - kept:
        session.delete(rows[step])
    return sorted(before - {rows[step].key for step in kept})


def forget_checkpoints(session: Session, run_id: str) -> None:
    """Delete the rows about copies of a run's checkpoints; what they named is removed with the run."""
    of_run = ArtifactUpload.path.startswith(f"checkpoints/{run_id}/", autoescape=True)
    session.execute(delete(ArtifactUpload).where(of_run))


def _checkpoint_rows(session: Session, run_id: str) -> dict[int, ArtifactUpload]:
    prefix = f"checkpoints/{run_id}/step_"
    query = select(ArtifactUpload).where(ArtifactUpload.path.startswith(prefix, autoescape=True))
    return {int(row.path.removeprefix(prefix)): row for row in session.scalars(query)}
