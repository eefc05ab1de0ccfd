"""Ranges that were fetched from afar, kept on the local disk within a bound that all processes share."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

_LOW_WATER = 0.9  # evicting a little more than needed spares a scan for every new entry
_TOTAL = "total"


class RangeCache:
    """Least recently used goes first. Safe with several processes: entries appear by rename, the total has a lock.

    Args:
        folder: made when needed; anything else in it is left alone.
        max_bytes: bound on the entries' sizes together; 0 keeps nothing.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes

    def get(self, key: str) -> bytes | None:
        """What was put under ``key``, if it is still there."""
        path = self._path(key)
        try:
            data = path.read_bytes()
            os.utime(path)  # the time of the last use orders the eviction
        except OSError:
            return None
        return data

    def put(self, key: str, data: bytes) -> None:
        """Keep ``data``. A full or read-only disk is no error: the entry is fetched again next time."""
        if len(data) > self.max_bytes:
            return
        path = self._path(key)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._locked_total() as total:
                if path.exists():
                    return
                if total.value + len(data) > self.max_bytes:
                    total.value = self._evict(int(self.max_bytes * _LOW_WATER) - len(data))
                _write_beside(path, data)
                total.value += len(data)

    def bytes(self) -> int:
        """Size of all entries, as the shared total says."""
        with self._locked_total() as total:
            return total.value

    def _path(self, key: str) -> Path:
        digest = hashlib.sha256(key.encode()).hexdigest()
        return self.folder / digest[:2] / f"{digest}.range"

    @contextlib.contextmanager
    def _locked_total(self) -> Iterator[_Total]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / _TOTAL).open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            total = _Total(int(file.read() or b"0"))
            try:
                yield total
            finally:
                file.truncate(0)
                file.write(str(total.value).encode())

    def _evict(self, target: int) -> int:
        """Delete until at most ``target`` bytes are left. Returns: what is left, by the files' own sizes."""
        entries = []
        for path in self.folder.glob("??/*.range"):
            with contextlib.suppress(OSError):
                stat = path.stat()
                entries.append((stat.st_mtime_ns, stat.st_size, path))
        left = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if left <= target:
                break
            with contextlib.suppress(OSError):
                path.unlink()
                left -= size
        return left


class _Total:
    """A number that is written back when the lock is given up."""

    def __init__(self, value: int) -> None:
        self.value = value


def _write_beside(path: Path, data: bytes) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.replace(name, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
