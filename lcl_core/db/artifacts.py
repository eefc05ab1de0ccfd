"""Folders that rows name, on a machine that need not be the one that wrote them.

``Artifacts`` opens a folder in the home folder, or fetches it from the artifact store into ``ArtifactCache``;
``upload_pending`` sends the folders of this home that are due. ``StoredCheckpoint`` is a row about a copied checkpoint,
written under the lease of its run. Several machines, each with a home folder of its own,
may share a database: ``home_id`` identifies a home.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from lcl_core.common.disk_cache import DiskCache, no_progress
from lcl_core.common.errors import UserError
from lcl_core.common.files import fsync_path, read_or_create
from lcl_core.common.settings import Settings
from lcl_core.db.artifact_store import ArtifactStore, damaged_error
from lcl_core.db.leases import Claim, lock_with_lease
from lcl_core.db.models import ArtifactUpload
from lcl_core.db.registry import absolute_path
from lcl_core.db.session import UNREACHABLE, Database, now
from lcl_core.db.uploads import (
    FileEntries,
    claim_upload,
    due_uploads,
    record_upload_failure,
    record_uploaded,
    renew_upload,
    require_uploaded,
)

ReadChunks = Callable[[str, int], Iterable[bytes]]  # of (name, bytes)
_MANIFEST, _CONTENT = "manifest.json", "checkpoint/manifest.json"  # of a checkpoint's copy, and its own
_HOME_ID_FILE = Path("runs") / ".home"  # beside the runs, so that a copy or a backup of them includes it

log = structlog.get_logger(__name__)


class Artifacts:
    """Opens the store on first use. Without ``LCL_ARTIFACTS`` all folders are in the home folder."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.home = settings.home.resolve()
        self.cache = ArtifactCache(self.home / "cache" / "artifacts", settings.artifacts_cache_bytes)

    @property
    def holder(self) -> str | None:
        """Id of this home, whose folders are to be uploaded; None: there is no store."""
        return self._home_id if self._settings.artifacts else None

    @cached_property
    def _home_id(self) -> str:
        return home_id(self.home)

    @cached_property
    def store(self) -> ArtifactStore:
        """The store. Raises: UserError where there is none, or its protocol is not known."""
        return ArtifactStore(self._settings.artifacts)

    def find_remote_copy(self, session: Session, stored: str) -> ArtifactUpload | None:
        """The upload of a folder whose newest files are in another home; None: read it in this home."""
        if self.holder is None:
            return None
        row = session.get(ArtifactUpload, stored)
        is_local = row is not None and row.holder == self.holder and absolute_path(self.home, stored).is_dir()
        return None if is_local else row

    def open_cached(
        self, row: ArtifactUpload, below: str = "", progress: Callable[[], None] = no_progress
    ) -> AbstractContextManager[Path]:
        """The uploaded folder, or the folder ``below`` in it, in the cache; not evicted before the end of the block.

        Raises (on entry): UserError ``artifacts_pending``, ``store_unreachable``, or as
            ``ArtifactCache.open_cached``.
        """
        key, prefix = require_uploaded(row), f"{below}/" if below else ""
        files: FileEntries = {
            name.removeprefix(prefix): entry for name, entry in (row.files or {}).items() if name.startswith(prefix)
        }

        def read(name: str, size: int) -> Iterable[bytes]:
            return self.store.read_stream(key, prefix + name, 0, size)

        return self.cache.open_cached(f"{key}/{below}" if below else key, files, read, progress)

    @contextmanager
    def open_folder(self, session: Session, stored: str) -> Iterator[Path]:
        """A folder in this home or in the cache, until the end of the block. Closes ``session``, which only reads.

        Raises (on entry): as ``open_cached``.
        """
        row = self.find_remote_copy(session, stored)
        session.close()
        if row is None:
            yield absolute_path(self.home, stored)
            return
        with self.open_cached(row) as path:
            yield path

    def folder(self, session: Session, stored: str, below: str = "") -> Path:
        """``open_folder`` for a use that ends at once. Closes ``session`` only if files are fetched.

        Raises: as ``open_cached``.
        """
        row = self.find_remote_copy(session, stored)
        if row is None:
            return absolute_path(self.home, stored) / below
        session.close()
        with self.open_cached(row, below) as path:
            return path


class ArtifactCache:
    """Fetched folders within a bound on the local disk; safe with several processes and threads.

    Args:
        folder: created when needed.
        max_bytes: bound on the entries together; entries in use may exceed it.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self._cache = DiskCache(folder, max_bytes)

    @contextmanager
    def open_cached(
        self, key: str, files: FileEntries, read: ReadChunks, progress: Callable[[], None] = no_progress
    ) -> Iterator[Path]:
        """The folder with these files, fetched if it is not in the cache; not evicted before the end of the block.

        Args:
            key: of the folder in the store, perhaps with a path below it.
            progress: called repeatedly while this or another process fetches; what it raises ends the call.

        Raises (on entry): UserError ``artifact_damaged``, ``cache_unwritable``; what ``read`` and ``progress`` raise.
        """

        def fetch(folder: Path) -> None:
            for name, entry in files.items():
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                write_checked(target, read(name, entry["bytes"]), entry["sha256"], progress)
                modified = datetime.fromisoformat(entry["modified_at"]).timestamp()
                os.utime(target, (modified, modified))

        size = sum(entry["bytes"] for entry in files.values())
        with ExitStack() as stack:
            try:
                path = stack.enter_context(self._cache.open(key.replace("/", "~"), fetch, size, progress))
            except OSError as error:
                message = f"artifacts cannot be cached here ({error.strerror}); make room, or make the folder writable"
                raise UserError(message, code="cache_unwritable", file=self.folder) from error
            yield path


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint of a run whose copy in the store is complete.

    Attributes:
        attempt: of the run that copied it.
        manifest: SHA-256 of the manifest of the key.
        content: SHA-256 of the checkpoint's own manifest, which identifies it.
    """

    step: int
    attempt: int
    key: str
    manifest: str
    content: str


def stored_checkpoints(session: Session, run_id: str) -> list[StoredCheckpoint]:
    """Those that the rows name, newest first."""
    rows = _checkpoint_rows(session, run_id)
    return [
        StoredCheckpoint(
            step,
            row.files[_MANIFEST]["attempt"],
            row.key,
            row.files[_MANIFEST]["sha256"],
            row.files[_CONTENT]["sha256"],
        )
        for step, row in sorted(rows.items(), reverse=True)
        if row.key is not None and row.files is not None
    ]


def record_stored_checkpoint(
    session: Session,
    claim: Claim,
    holder: str,
    stored: StoredCheckpoint,
    newest: int,
    keep: int,
    milestone_every: int | None,
) -> list[str]:
    """Name a checkpoint that has been copied; of all up to step ``newest``, keep the last ``keep`` and the milestones.

    Later ones are damaged, or an attempt that has lost its lease made them: this attempt began before them.

    Args:
        newest: step of the newest checkpoint that this attempt has.

    Returns: keys that no row names any more. Raises: StaleLease, so that no such attempt replaces a newer one's copy.
    """
    lock_with_lease(session, claim)
    rows = _checkpoint_rows(session, claim.run_id)
    before = {row.key for row in rows.values() if row.key is not None}
    if stored.step not in rows:
        path = f"{_checkpoint_prefix(claim.run_id)}{stored.step:08d}"
        moment = now(session)
        rows[stored.step] = ArtifactUpload(path=path, attempts=0, enqueued_at=moment, next_at=moment)
        session.add(rows[stored.step])
    row = rows[stored.step]
    row.key, row.holder, row.pending, row.error = stored.key, holder, None, None
    row.files = {
        _MANIFEST: {"sha256": stored.manifest, "attempt": stored.attempt},
        _CONTENT: {"sha256": stored.content},
    }
    past = sorted((step for step in rows if step <= newest), reverse=True)
    kept = {*past[:keep], *(step for step in past if milestone_every is not None and step % milestone_every == 0)}
    for step in rows.keys() - kept:
        session.delete(rows[step])
    return sorted(before - {rows[step].key for step in kept})


def _checkpoint_prefix(run_id: str) -> str:
    return f"checkpoints/{run_id}/step_"


def _checkpoint_rows(session: Session, run_id: str) -> dict[int, ArtifactUpload]:
    prefix = _checkpoint_prefix(run_id)
    query = select(ArtifactUpload).where(ArtifactUpload.path.startswith(prefix, autoescape=True))
    return {int(row.path.removeprefix(prefix)): row for row in session.scalars(query)}


def upload_pending(database: Database, artifacts: Artifacts) -> None:
    """Upload all folders of this home that are due. Raises: UNREACHABLE."""
    while upload_next(database, artifacts):
        pass


def upload_next(database: Database, artifacts: Artifacts, *, imports: bool = False) -> bool:
    """Upload one folder that is due. Several processes may call it at once.

    Args:
        imports: only encoders that no run has made.

    Returns: whether there was one. Raises: UNREACHABLE.
    """
    holder = artifacts.holder
    if holder is None:
        return False
    with database.reading() as session:
        if session.scalars(due_uploads(session, holder, imports=imports)).first() is None:
            return False
    with database.session() as session:
        task = claim_upload(session, holder, imports=imports)
    if task is None:
        return False

    def renew() -> None:
        # a database that does not answer for a while stops no upload, and two that overlap write the same files
        with suppress(*UNREACHABLE), database.session() as session:
            renew_upload(session, task)

    try:
        files = artifacts.store.put(task.key, artifacts.home / task.path, renew)
    except (UserError, OSError) as error:
        log.warning("artifacts_not_sent", path=task.path, tries=task.tries, error=str(error))
        with database.session() as session:
            record_upload_failure(session, task, str(error))
        return True
    with database.session() as session:
        record_uploaded(session, task, files)
    log.info("artifacts_sent", path=task.path, files=len(files), bytes=sum(each["bytes"] for each in files.values()))
    return True


def home_id(home: Path) -> str:
    """32 hex digits that identify the home folder; the first call creates them. Raises: OSError."""
    return read_or_create(Path(home) / _HOME_ID_FILE, partial(secrets.token_hex, 16))


def write_checked(target: Path, chunks: Iterable[bytes], sha256: str, progress: Callable[[], None]) -> None:
    """Write a file of the store, and flush it. Raises: UserError ``artifact_damaged``; OSError; as ``progress``."""
    digest = hashlib.sha256()
    with target.open("wb") as file:
        for chunk in chunks:
            digest.update(chunk)
            file.write(chunk)
            progress()
    if digest.hexdigest() != sha256:
        raise damaged_error(target.name)
    fsync_path(target)
