"""Bounded cache on the local disk that processes and threads share.

    FOLDER/NAME          an entry, a file or a folder; appears complete, by a rename
    FOLDER/NAME.lock     of a folder entry: shared by its users, exclusive for the process that makes or removes it
    FOLDER/.NAME.HEX     a folder entry that is being made
    FOLDER/total         bytes of all entries; a lock on this file guards additions and evictions

The least recently used entry is evicted first, and never a folder entry that is in use.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lcl_core.common.errors import UserError
from lcl_core.common.files import fsync_tree, write_atomically

DEFAULT_DATA_CACHE_BYTES = 10 << 30
_POLL_SECONDS = 0.1
_TOTAL_FILE = "total"
_LOCK_SUFFIX = ".lock"
_PARTIAL_PREFIX = "."


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


class DiskCache:
    """A cache has either file entries (``read``, ``write``) or folder entries (``open``).

    Args:
        folder: created when needed; other files in it stay.
        max_bytes: bound on the size of all entries together, which entries in use may exceed; None: no bound.
        entries: glob of the entries below ``folder``; folders by default.
        low_water: fraction of ``max_bytes`` to which an eviction goes down. Below 1 it spares a scan for each entry.
    """

    def __init__(self, folder: Path, max_bytes: int | None, *, entries: str = "*/", low_water: float = 1.0) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self._pattern, self._low_water = entries, low_water

    def path(self, name: str) -> Path:
        """Path of the entry ``name``, whether or not it exists."""
        return self.folder / name

    def total_bytes(self) -> int:
        """Size of all entries, as the shared total says. Raises: OSError."""
        with self._locked_total() as total:
            return total.bytes

    def read(self, name: str) -> bytes | None:
        """Content of a file entry; None where there is none."""
        path = self.path(name)
        try:
            data = path.read_bytes()
            os.utime(path)  # the time of the last use orders the eviction
        except OSError:
            return None
        return data

    def write(self, name: str, data: bytes) -> None:
        """Add a file entry, unless it exists or exceeds ``max_bytes``. A full or read-only disk is no error."""
        if self.max_bytes is not None and len(data) > self.max_bytes:
            return
        path = self.path(name)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._locked_total() as total:
                if path.exists():
                    return
                self._make_room(total, len(data))
                write_atomically(path, data, mode=0o600, durable=False)
                total.bytes += len(data)

    @contextlib.contextmanager
    def open(
        self,
        name: str,
        make: Callable[[Path], None],
        size: int = 0,
        progress: Callable[[], None] = no_progress,
        *,
        durable: bool = False,
    ) -> Iterator[Path]:
        """The folder entry ``name``, made if it does not exist; it is not evicted before the end of the block.

        Of several callers one makes the entry and the others wait.

        Args:
            make: writes the content into the empty folder that it gets; what it raises leaves no entry.
            size: bytes that ``make`` is going to write, if known: room is made before.
            progress: called repeatedly while another caller makes the entry; what it raises ends the wait.
            durable: flush the content to disk before the entry appears, so that a crash of the machine leaves it whole
                or not at all; for content that no reader checks.

        Raises (on entry): OSError, and what ``make`` and ``progress`` raise.
        """
        entry = self.path(name)
        with self._lock_file(entry) as lock:
            while not (_try_lock(lock, fcntl.LOCK_SH) and entry.is_dir()):
                if _try_lock(lock, fcntl.LOCK_EX):
                    if not entry.is_dir():
                        self._make(entry, make, size, durable)
                else:
                    progress()
                    time.sleep(_POLL_SECONDS)
            os.utime(lock.name)  # the lock's time of use, so that the entry keeps the times of its making
            yield entry

    def _make(self, entry: Path, make: Callable[[Path], None], size: int, durable: bool) -> None:
        self._remove_partial()
        if size:
            with self._locked_total() as total:
                self._make_room(total, size)
        partial = self.folder / f"{_PARTIAL_PREFIX}{entry.name}.{secrets.token_hex(4)}"
        try:
            partial.mkdir()
            make(partial)
            if durable:
                fsync_tree(partial)
            made = _size_of(partial)
            with self._locked_total() as total:
                self._make_room(total, made)
                partial.rename(entry)
                total.bytes += made
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _make_room(self, total: _Total, size: int) -> None:
        """Evict until ``size`` more bytes fit, as far as entries are not in use. Recounts the total."""
        if self.max_bytes is None or total.bytes + size <= self.max_bytes:
            return
        target = int(self.max_bytes * self._low_water) - size
        entries = self._list_entries()
        total.bytes = sum(entry.bytes for entry in entries)
        for entry in sorted(entries, key=lambda entry: (entry.last_used, entry.path)):
            if total.bytes <= target:
                return
            if self._remove(entry.path, entry.path.name):
                total.bytes -= entry.bytes

    def _list_entries(self) -> list[_Entry]:
        found = []
        for path in self.folder.glob(self._pattern):
            with contextlib.suppress(OSError):  # another process has just removed it
                if not path.name.startswith(_PARTIAL_PREFIX):
                    found.append(_Entry(path, _last_used(path), _size_of(path)))
        return found

    def _remove_partial(self) -> None:
        """Remove what killed processes were making."""
        for path in self.folder.glob(f"{_PARTIAL_PREFIX}*/"):
            self._remove(path, path.name[len(_PARTIAL_PREFIX) :].rpartition(".")[0])

    def _remove(self, path: Path, name: str) -> bool:
        """Remove ``path`` unless the entry ``name`` is in use or being made. Returns: whether it is gone."""
        if not path.is_dir():
            path.unlink(missing_ok=True)
            return True
        with self._lock_file(self.folder / name) as lock:
            if not _try_lock(lock, fcntl.LOCK_EX):
                return False
            shutil.rmtree(path, ignore_errors=True)  # readers have the lock
            return not path.exists()

    def lock_entry(self, name: str) -> IO[str]:
        """Lock the folder entry ``name`` against eviction until the returned file is closed, or this process has ended.

        Waits while the entry is made or removed. Raises: FileNotFoundError where it is not there; OSError.
        """
        entry = self.path(name)
        lock = _open_lock(entry)
        try:
            fcntl.flock(lock, fcntl.LOCK_SH)
            if not entry.is_dir():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(entry))
        except BaseException:
            lock.close()
            raise
        return lock

    @contextlib.contextmanager
    def _lock_file(self, entry: Path) -> Iterator[IO[str]]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with _open_lock(entry) as lock:
            try:
                yield lock
            finally:
                fcntl.flock(lock, fcntl.LOCK_UN)  # a forked child may have the file open still

    @contextlib.contextmanager
    def _locked_total(self) -> Iterator[_Total]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / _TOTAL_FILE).open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            text = file.read()
            total = _Total(int(text) if text.isdigit() else sum(entry.bytes for entry in self._list_entries()))
            try:
                yield total
            finally:
                file.truncate(0)
                file.write(str(max(0, total.bytes)).encode())


@dataclass
class _Total:
    """Bytes of all entries; written back when the lock is released."""

    bytes: int


@dataclass(frozen=True)
class _Entry:
    path: Path
    last_used: int  # nanoseconds
    bytes: int


def _try_lock(lock: IO[str], kind: int) -> bool:
    """Whether the lock is ours now. One of the other kind is released first."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        fcntl.flock(lock, fcntl.LOCK_UN)
        return False
    return True


def _open_lock(entry: Path) -> IO[str]:
    """Open to be read too: NFS refuses a shared lock of a file that can only be written."""
    return _lock_path(entry).open("a+")


def _lock_path(entry: Path) -> Path:
    return entry.with_name(f"{entry.name}{_LOCK_SUFFIX}")


def _last_used(path: Path) -> int:
    lock = _lock_path(path)
    return (lock if lock.exists() else path).stat().st_mtime_ns


def _size_of(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total
