"""Uploaded files of each session, within limits on bytes.

A file is found only by its own session, under exactly the path that the session received, while that path is a regular
file. Sessions of one key share a quota.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MIB = 2**20
MIN_FILE_BYTES = 4096  # that a file counts as: an empty one needs a folder and an entry too
MAX_DROPPED = 1000  # paths of deleted files that a session keeps


@dataclass(frozen=True)
class UploadLimits:
    """Bytes of one file, of the files of one request, of all sessions of one key, and in total."""

    file: int = 32 * MIB
    request: int = 256 * MIB
    session: int = 512 * MIB
    total: int = 1024 * MIB
    concurrent: int = 4  # requests of one session

    def file_too_large(self) -> UploadError:
        return UploadError(413, f"A file is too large. {_at_most(self.file)} each.")

    def request_too_large(self) -> UploadError:
        return UploadError(413, f"These files are too large together. {_at_most(self.request)} at a time.")


class UploadError(Exception):
    """``status``: of HTTP. The message is shown to the user."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class SessionFiles:
    """The files of all sessions. Safe to share between threads.

    Args:
        root: folder of all files; each file is in a folder of its own with a random name, or in folders below it.
        is_open: has the session not ended?
    """

    def __init__(self, root: Path, limits: UploadLimits, is_open: Callable[[str], bool]) -> None:
        self.root = root
        self.limits = limits
        self.is_open = is_open
        self._keys: dict[str, str] = {}  # session -> key
        self._files: dict[str, dict[str, int]] = {}  # session -> path -> bytes that it counts as, oldest first
        self._dropped: dict[str, dict[str, None]] = {}  # session -> paths of deleted files, oldest first
        self._references: Counter[str] = Counter()  # path -> number of sessions that have it
        self._incoming: dict[str, list[int]] = {}  # session -> bytes of each request in progress
        self._lock = threading.Lock()

    @contextmanager
    def receive(self, session: str, key: str, size: int) -> Iterator[Path]:
        """Reserve ``size`` bytes for an upload; the oldest files of the same key are deleted to make room.

        Yields: a new folder, which is deleted at the end.

        Raises: UploadError 413 (request too large), 429 (too many uploads), 507 (no room).
        """
        self._reserve(session, key, size)
        folder = self.root / secrets.token_hex(16)
        try:
            folder.mkdir(mode=0o700, parents=True)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            with self._lock:
                in_progress = self._incoming[session]
                in_progress.remove(size)
                if not in_progress:
                    del self._incoming[session]

    def new_folder(self) -> Path:
        folder = self.root / secrets.token_hex(16)
        folder.mkdir(mode=0o700, parents=True)
        return folder

    def keep(self, session: str, key: str, path: Path) -> None:
        """Give the file to the session.

        Ignored unless it is a regular file below ``root``; deleted if the session has ended.
        """
        size = _regular_file_size(path)
        if size is None or not path.resolve().is_relative_to(self.root.resolve()):
            return
        with self._lock:
            if not self.is_open(session):
                self._delete(str(path))
                return
            self._keys[session] = key
            files = self._files.setdefault(session, {})
            if str(path) not in files:
                self._references[str(path)] += 1
            files[str(path)] = max(size, MIN_FILE_BYTES)
            self._make_room(key, 0, keep_path=str(path))

    def find(self, session: str, path: str) -> Path | None:
        """The file with exactly this path, if it exists and belongs to the session."""
        if path not in self._files.get(session, {}):
            return None
        file = Path(path)
        return file if _regular_file_size(file) is not None else None

    def was_deleted(self, session: str, path: str) -> bool:
        """Did the session have a file with exactly this path, where nothing is any more?

        Files are deleted for newer ones of the same key, and by Gradio after a day.
        """
        known = path in self._files.get(session, {}) or path in self._dropped.get(session, {})
        return known and not os.path.lexists(path)

    def close(self, session: str) -> None:
        """End a session: files that no other session has are deleted."""
        with self._lock:
            for path in list(self._files.get(session, ())):
                self._drop(session, path)
            self._files.pop(session, None)
            self._dropped.pop(session, None)
            self._keys.pop(session, None)

    def total_bytes(self) -> int:
        """Of all files; one that two sessions have counts once."""
        sizes: dict[str, int] = {}
        for files in list(self._files.values()):
            sizes |= files
        return sum(sizes.values())

    def _reserve(self, session: str, key: str, size: int) -> None:
        limits = self.limits
        if size > limits.request:
            raise limits.request_too_large()
        with self._lock:
            in_progress = self._incoming.get(session, [])
            of_key = sum(sum(sizes) for other, sizes in self._incoming.items() if self._keys.get(other) == key)
            if len(in_progress) >= limits.concurrent or of_key + size > limits.session:
                raise UploadError(429, "Too many uploads at once. Wait until the others have ended, then try again.")
            self._make_room(key, of_key + size)
            total = self.total_bytes() + sum(map(sum, self._incoming.values()))
            if total + size > limits.total:
                raise UploadError(507, "The page has no room for more files at the moment. Try again later.")
            self._keys[session] = key
            self._incoming.setdefault(session, []).append(size)

    def _make_room(self, key: str, size: int, keep_path: str = "") -> None:
        """Delete the oldest files of a key until ``size`` more bytes are within its quota. The lock is held."""
        of_key = [session for session, other in self._keys.items() if other == key]
        used = sum(sum(self._files.get(session, {}).values()) for session in of_key)
        for session in of_key:
            for path, bytes_ in list(self._files.get(session, {}).items()):
                if used + size <= self.limits.session:
                    return
                if path != keep_path:
                    self._drop(session, path)
                    used -= bytes_

    def _drop(self, session: str, path: str) -> None:
        """The lock is held."""
        del self._files[session][path]
        dropped = self._dropped.setdefault(session, {})
        dropped[path] = None
        if len(dropped) > MAX_DROPPED:
            del dropped[next(iter(dropped))]
        self._references[path] -= 1
        self._delete(path)

    def _delete(self, path: str) -> None:
        """Unless another session has it. The lock is held."""
        if self._references[path] > 0:
            return
        del self._references[path]
        Path(path).unlink(missing_ok=True)
        for folder in Path(path).parents:  # those that a browser named, and the random one
            if folder == self.root:
                return
            try:
                folder.rmdir()
            except OSError:  # another file is in it
                return


def _regular_file_size(path: Path) -> int | None:
    """Bytes of a regular file; None for links, devices, folders and missing files."""
    try:
        status = os.lstat(path)
    except (OSError, ValueError):  # ValueError: a name with NUL
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _at_most(size: int) -> str:
    return f"At most {size / MIB:,.0f} MB" if size >= MIB else f"At most {size:,} bytes"
