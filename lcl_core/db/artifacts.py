"""Folders that rows name, on a machine that need not be the one that made them.

``Artifacts`` opens a folder in the home folder, or fetches it from the artifact store into ``ArtifactCache``;
``upload_pending`` sends the folders of this home that are due. Several machines, each with a home folder of its own,
may share a database: ``home_id`` identifies a home.

    CACHE/encoders~enc_…~1/        an entry: complete, its bytes checked; appears by a rename
    CACHE/encoders~enc_…~1.lock    shared by its users, exclusive for the process that fetches or removes the entry
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import IO

import structlog
from sqlalchemy.orm import Session

from lcl_core.common.errors import UserError
from lcl_core.common.files import fsync_path, write_atomically
from lcl_core.common.settings import Settings
from lcl_core.db.artifact_store import ArtifactStore
from lcl_core.db.models import ArtifactUpload
from lcl_core.db.outbox import (
    FileEntries,
    claim_upload,
    get_upload,
    has_due_uploads,
    record_upload_failure,
    record_uploaded,
    require_uploaded,
)
from lcl_core.db.registry import absolute_path
from lcl_core.db.session import Database

_HOME_ID_FILE = Path("runs") / ".home"  # beside what it is asked about: a copy of that, or a backup, brings it along


def home_id(home: Path) -> str:
    """32 hex digits that the home keeps; made when first asked for. Raises: OSError."""
    path = Path(home) / _HOME_ID_FILE
    with suppress(FileNotFoundError):
        return path.read_text(encoding="ascii").strip()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, secrets.token_hex(16), replace=False)  # of several processes the first one's id counts
    return path.read_text(encoding="ascii").strip()


_POLL_SECONDS = 0.1
_PARTIAL_PREFIX = "."  # how folders begin that are being fetched
ReadChunks = Callable[[str, int], Iterable[bytes]]  # of (name, bytes)


def no_progress() -> None:
    """What is called while fetching goes on, for those who need not know."""


class ArtifactCache:
    """Least recently used goes first, and never what is in use. Safe with several processes and threads.

    Args:
        folder: made when needed.
        max_bytes: bound on the entries together; what is in use may exceed it.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes

    @contextlib.contextmanager
    def open_cached(
        self, key: str, files: FileEntries, read: ReadChunks, tick: Callable[[], None] = no_progress
    ) -> Iterator[Path]:
        """The folder of these files, fetched if need be; it stays at least until the end of the block.

        Args:
            key: its place in the store, and perhaps a folder below that.
            tick: called again and again while fetching goes on, by somebody else too; what it raises ends it.

        Raises: UserError ``artifact_damaged``, ``cache_unwritable``, or what ``read`` raises.
        """
        entry = self.folder / key.replace("/", "~")
        with self._taken(entry, files, read, tick):
            os.utime(_lock_path(entry))  # the time of the last use orders the removal; the folder looks as it was made
            yield entry

    @contextlib.contextmanager
    def _taken(self, entry: Path, files: FileEntries, read: ReadChunks, tick: Callable[[], None]) -> Iterator[None]:
        with self._lock_file(entry) as lock:
            while not (_try_lock(lock, fcntl.LOCK_SH) and entry.is_dir()):
                if _try_lock(lock, fcntl.LOCK_EX):
                    if not entry.is_dir():
                        self._fetch(entry, files, read, tick)
                else:
                    tick()
                    time.sleep(_POLL_SECONDS)
            yield

    def _fetch(self, entry: Path, files: FileEntries, read: ReadChunks, tick: Callable[[], None]) -> None:
        torn = self.folder / f"{_PARTIAL_PREFIX}{entry.name}.{secrets.token_hex(4)}"
        try:
            self._make_room(sum(facts["bytes"] for facts in files.values()))
            torn.mkdir()
            for name, facts in files.items():
                target = torn / name
                target.parent.mkdir(parents=True, exist_ok=True)
                _write_checked(target, read(name, facts["bytes"]), facts["sha256"], tick)
                moment = datetime.fromisoformat(facts["modified_at"]).timestamp()
                os.utime(target, (moment, moment))
            torn.rename(entry)
        except OSError as error:
            message = f"what is in the store cannot be kept here ({error.strerror}); make room, or make it writable"
            raise UserError(message, code="cache_unwritable", file=self.folder) from error
        finally:
            shutil.rmtree(torn, ignore_errors=True)

    def _make_room(self, wanted: int) -> None:
        """Remove entries until ``wanted`` more bytes fit, as far as they are not in use; and what was broken off."""
        folders = [path for path in self.folder.iterdir() if path.is_dir()]
        for torn in (path for path in folders if path.name.startswith(_PARTIAL_PREFIX)):
            self._remove(torn, torn.name[len(_PARTIAL_PREFIX) :].rpartition(".")[0])
        entries = [
            (_last_used(path), _folder_bytes(path), path)
            for path in folders
            if not path.name.startswith(_PARTIAL_PREFIX)
        ]
        left = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if left + wanted <= self.max_bytes:
                return
            if self._remove(path, path.name):
                left -= size

    def _remove(self, path: Path, name: str) -> bool:
        """Whether nobody uses, or fetches, the entry ``name``: then the folder is gone."""
        with self._lock_file(self.folder / name) as lock:
            if not _try_lock(lock, fcntl.LOCK_EX):
                return False
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(path)  # nobody looks at it without the lock
            return True

    def _lock_file(self, entry: Path) -> IO[str]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            return _lock_path(entry).open("a")
        except OSError as error:
            message = f"there is no way to keep what is in the store ({error.strerror}); make the folder writable"
            raise UserError(message, code="cache_unwritable", file=self.folder) from error


def _try_lock(lock: IO[str], kind: int) -> bool:
    """Whether the lock is ours now. One of the other kind is given up first."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        fcntl.flock(lock, fcntl.LOCK_UN)
        return False
    return True


def _write_checked(target: Path, chunks: Iterable[bytes], sha256: str, tick: Callable[[], None]) -> None:
    digest = hashlib.sha256()
    with target.open("wb") as file:
        for chunk in chunks:
            digest.update(chunk)
            file.write(chunk)
            tick()
    if digest.hexdigest() != sha256:
        message = "the store does not hold what was sent to it: its bytes differ; restore the object, or run anew"
        raise UserError(message, code="artifact_damaged", file=target.name)
    fsync_path(target)


def _lock_path(entry: Path) -> Path:
    return entry.with_name(f"{entry.name}.lock")


def _last_used(entry: Path) -> int:
    return _lock_path(entry).stat().st_mtime_ns


def _folder_bytes(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total


class Artifacts:
    """Opens nothing until it is needed. Without ``LCL_ARTIFACTS`` all folders are the home's."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.home = settings.home.resolve()
        self.cache = ArtifactCache(self.home / "cache" / "artifacts", settings.artifacts_cache_bytes)

    @property
    def holder(self) -> str | None:
        """Whose folders are to be sent to the store: this home's, by its id; None: there is no store."""
        return self._home_id if self._settings.artifacts else None

    @cached_property
    def _home_id(self) -> str:
        return home_id(self.home)

    @cached_property
    def store(self) -> ArtifactStore:
        """The store. Raises: UserError where there is none, or its protocol is not known."""
        return ArtifactStore(self._settings.artifacts)

    def find_remote_copy(self, session: Session, stored: str) -> ArtifactUpload | None:
        """What the store has, or is to have, of a folder whose newest files this home has not; else None."""
        if self.holder is None:
            return None
        row = get_upload(session, stored)
        here = row is not None and row.holder == self.holder and absolute_path(self.home, stored).is_dir()
        return None if here else row

    def open_cached(
        self, row: ArtifactUpload, below: str = "", tick: Callable[[], None] = no_progress
    ) -> AbstractContextManager[Path]:
        """The folder, or the one ``below`` in it, fetched if need be; it stays at least until the end of the block.

        Raises (on entry): UserError ``artifacts_pending``, ``store_unreachable`` or as Shelf.
        """
        place, prefix = require_uploaded(row), f"{below}/" if below else ""
        files: FileEntries = {
            name.removeprefix(prefix): facts for name, facts in (row.files or {}).items() if name.startswith(prefix)
        }
        key = f"{place}/{below}" if below else place

        def read(name: str, size: int) -> Iterable[bytes]:
            return self.store.read_stream(place, prefix + name, 0, size)

        return self.cache.open_cached(key, files, read, tick)

    @contextmanager
    def open_folder(self, session: Session, stored: str) -> Iterator[Path]:
        """A folder wherever it is, until the end of the block; ``session`` only reads, and is given up meanwhile.

        Raises (on entry): as ``using``.
        """
        row = self.find_remote_copy(session, stored)
        session.close()
        if row is None:
            yield absolute_path(self.home, stored)
            return
        with self.open_cached(row) as path:
            yield path

    def folder(self, session: Session, stored: str, below: str = "") -> Path:
        """The same for a use that is over at once; ``session`` only reads, and is given up while files come.

        Raises: as ``using``.
        """
        row = self.find_remote_copy(session, stored)
        if row is None:
            return absolute_path(self.home, stored) / below
        session.close()
        with self.open_cached(row, below) as path:
            return path


log = structlog.get_logger(__name__)


def upload_pending(database: Database, supply: Artifacts) -> None:
    """Send everything that is due now. Raises: UNREACHABLE."""
    while upload_next(database, supply):
        pass


def upload_next(database: Database, supply: Artifacts) -> bool:
    """Send one folder that is due, if there is any. Any number of processes may do so at once.

    Returns: whether there was one. Raises: UNREACHABLE.
    """
    holder = supply.holder
    if holder is None:
        return False
    with database.reading() as session:
        if not has_due_uploads(session, holder):
            return False
    with database.session() as session:
        task = claim_upload(session, holder)
    if task is None:
        return False
    try:
        files = supply.store.put(task.key, supply.home / task.path, task.copy_sources)
    except (UserError, OSError) as error:
        log.warning("artifacts_not_sent", path=task.path, tries=task.tries, error=str(error))
        with database.session() as session:
            record_upload_failure(session, task, str(error))
        return True
    with database.session() as session:
        record_uploaded(session, task, files)
    log.info("artifacts_sent", path=task.path, files=len(files), bytes=sum(each["bytes"] for each in files.values()))
    return True
