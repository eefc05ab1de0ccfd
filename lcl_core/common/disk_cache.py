"""Bounded cache on the local disk that processes and threads share.

    FOLDER/NAME          an entry, a file or a folder; appears complete, by a rename
    FOLDER/NAME.lock     of a folder entry: shared by its users, exclusive for the process that makes or removes it
    FOLDER/.NAME.HEX     a folder entry that is being made

The least recently used entry is evicted first, and never a folder entry that is in use.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from lcl_core.common.errors import UserError
from lcl_core.common.files import fsync_tree, write_atomically

DEFAULT_DATA_CACHE_BYTES = 10 << 30
_POLL_SECONDS = 0.1
_PARTIAL_PREFIX = "."
# Of a cache of files, so much is evicted at once, and so much may be added before the files are counted again.
_SLACK = 0.1


def data_cache_folder() -> Path:
    """Folder of data fetched from URLs: ``LCL_DATA_CACHE``, or else below the service's home, or else the user's."""
    chosen, home = os.environ.get("LCL_DATA_CACHE"), os.environ.get("LCL_HOME")
    if chosen:
        return Path(chosen)
    return Path(home) / "cache" / "ranges" if home else Path.home() / ".cache" / "lcl" / "ranges"


def data_cache_bytes() -> int:
    """Bound on its ranges, and on its files: ``LCL_DATA_CACHE_BYTES``."""
    given = os.environ.get("LCL_DATA_CACHE_BYTES") or str(DEFAULT_DATA_CACHE_BYTES)
    if not given.isdecimal():
        message = f"LCL_DATA_CACHE_BYTES is {given!r}; give a number of bytes, 0 for no cache"
        raise UserError(message, code="bad_setting")
    return int(given)


def no_progress() -> None:
    """Default of ``progress``: does nothing."""


class FileCache:
    """Files in subfolders with names of two letters, at most ``max_bytes``.

    Each process counts the files when it has added a tenth of ``max_bytes``, and then evicts down to nine tenths: so
    several processes may exceed the bound by what they add between two counts.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self._uncounted = max_bytes  # the files are counted before the first is added

    def read(self, name: str) -> bytes | None:
        """Content of the entry; None where there is none."""
        path = self.folder / name
        try:
            data = path.read_bytes()
            os.utime(path)  # the time of the last use orders the eviction
        except OSError:
            return None
        return data

    def write(self, name: str, data: bytes) -> None:
        """Add an entry, unless it exceeds ``max_bytes``. A full or read-only disk is no error."""
        if len(data) > self.max_bytes:
            return
        path = self.folder / name
        self._uncounted += len(data)
        with contextlib.suppress(OSError):
            if self._uncounted > self.max_bytes * _SLACK:
                self._make_room(len(data))
                self._uncounted = 0
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data, mode=0o600, durable=False)

    def _make_room(self, size: int) -> None:
        found = []
        for path in self.folder.glob("??/*"):
            with contextlib.suppress(FileNotFoundError):  # another process has just removed it
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
        excess = sum(bytes_ for _, bytes_, _ in found) + size - int(self.max_bytes * (1 - _SLACK))
        for _, bytes_, path in sorted(found):
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= bytes_


class FolderCache:
    """Folders that are made once and used by many, at most ``max_bytes``, which entries in use may exceed."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes

    @contextlib.contextmanager
    def open(
        self, name: str, make: Callable[[Path], None], size: int = 0, progress: Callable[[], None] = no_progress
    ) -> Iterator[Path]:
        """The entry ``name``, made if it does not exist; it is not evicted before the end of the block.

        Of several callers one makes the entry and the others wait. It is flushed to disk before it appears.

        Args:
            make: writes the content into the empty folder that it gets; what it raises leaves no entry.
            size: bytes that ``make`` is going to write, if known: room is made before.
            progress: called repeatedly while another caller makes the entry; what it raises ends the wait.

        Raises (on entry): OSError, and what ``make`` and ``progress`` raise.
        """
        entry = self.folder / name
        with self._lock_file(name) as lock:
            while not (_try_lock(lock, fcntl.LOCK_SH) and entry.is_dir()):
                if not _try_lock(lock, fcntl.LOCK_EX):
                    progress()
                    time.sleep(_POLL_SECONDS)
                elif not entry.is_dir():
                    self._make(entry, make, size)
            os.utime(lock.name)  # the lock's time of use, so that the entry keeps the times of its making
            yield entry

    @contextlib.contextmanager
    def _lock_file(self, name: str) -> Iterator[IO[str]]:
        self.folder.mkdir(parents=True, exist_ok=True)
        # to be read too: NFS refuses a shared lock of a file that can only be written
        with (self.folder / f"{name}.lock").open("a+") as lock:
            try:
                yield lock
            finally:
                fcntl.flock(lock, fcntl.LOCK_UN)  # a forked child may have the file open still

    def _make(self, entry: Path, make: Callable[[Path], None], size: int) -> None:
        for left in self.folder.glob(f"{_PARTIAL_PREFIX}*/"):  # of killed processes
            made = left.name.removeprefix(_PARTIAL_PREFIX).rpartition(".")[0]
            if made == entry.name:  # whose lock this process has
                shutil.rmtree(left, ignore_errors=True)
            else:
                self._remove(left, made)
        self._make_room(size)
        partial = self.folder / f"{_PARTIAL_PREFIX}{entry.name}.{secrets.token_hex(4)}"
        try:
            partial.mkdir()
            make(partial)
            fsync_tree(partial)
            self._make_room(_size_of(partial))
            partial.rename(entry)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _make_room(self, size: int) -> None:
        """Evict until ``size`` more bytes fit, as far as entries are not in use."""
        found = []
        for path in self.folder.glob("[!.]*/"):
            lock = path.with_name(f"{path.name}.lock")
            with contextlib.suppress(FileNotFoundError):  # another process has just removed it
                found.append((lock.stat().st_mtime_ns, _size_of(path), path))
        excess = sum(bytes_ for _, bytes_, _ in found) + size - self.max_bytes
        for _, bytes_, path in sorted(found):
            if excess <= 0:
                return
            if self._remove(path, path.name):
                excess -= bytes_

    def _remove(self, path: Path, name: str) -> bool:
        """Remove ``path`` unless the entry ``name`` is in use or being made. Returns: whether it is gone."""
        with self._lock_file(name) as lock:
            if not _try_lock(lock, fcntl.LOCK_EX):
                return False
            shutil.rmtree(path, ignore_errors=True)
            return not path.exists()


def _try_lock(lock: IO[str], kind: int) -> bool:
    """Whether the lock is ours now. One of the other kind is released first."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        fcntl.flock(lock, fcntl.LOCK_UN)
        return False
    return True


def _size_of(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total
