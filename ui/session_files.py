"""Uploaded files of each session, within limits on bytes.

A session's files are below its own folder, which is in that of its key. A file is found only by its own session, while
its path is a regular file there. Sessions of one key share a quota.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradio.context import LocalContext

MIB = 2**20
STORE_SCOPE_KEY = "lcl.store"  # of the ASGI scope of an event, for what stores a file of its session
MIN_FILE_BYTES = 4096  # that a file counts as: an empty one needs a folder and an entry too


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
        root: folder of all files, which are at ``KEY/SESSION/RANDOM/NAME``, or in folders above NAME.
        is_open: has the session not ended?
    """

    def __init__(self, root: Path, limits: UploadLimits, is_open: Callable[[str], bool]) -> None:
        self.root = root
        self.limits = limits
        self.is_open = is_open
        self._folders: dict[str, Path] = {}  # session -> folder
        self._incoming: list[tuple[str, str, int]] = []  # session, key and bytes of each request in progress
        self._lock = threading.Lock()

    @contextmanager
    def receive(self, session: str, key: str, size: int) -> Iterator[Path]:
        """Reserve ``size`` bytes for an upload; the oldest files of the same key are deleted to make room.

        Yields: a new folder, which is deleted at the end.

        Raises: UploadError 413 (request too large), 429 (too many uploads), 507 (no room).
        """
        self._reserve(session, key, size)
        folder = self.root / f"incoming-{secrets.token_hex(16)}"
        try:
            folder.mkdir(mode=0o700, parents=True)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            with self._lock:
                self._incoming.remove((session, key, size))
                self._make_room(key, 0)  # a request may have more bytes than it announced

    def store(self, session: str, key: str, received: Path, name: Path | str) -> Path:
        """Move a received file into a new folder of the session, unless it has ended. Returns: the new path.

        Args:
            name: of the file, below its folders.
        """
        with self._lock:
            folder = self.root / _hash(key) / _hash(session)
            target = folder / secrets.token_hex(16) / name
            if self.is_open(session):
                self._folders[session] = folder
                target.parent.mkdir(mode=0o700, parents=True)
                received.rename(target)
            return target

    def store_bytes(self, session: str, key: str, name: str, data: bytes) -> str:
        with self.receive(session, key, len(data)) as folder:
            received = folder / "file"
            received.write_bytes(data)
            return str(self.store(session, key, received, name))

    def find(self, session: str, path: str) -> Path | None:
        """The file with exactly this path, if it exists and belongs to the session."""
        return Path(path) if self._is_own(session, path) and _is_regular_file(path) else None

    def close(self, session: str) -> None:
        """End a session: its files are deleted."""
        with self._lock:
            folder = self._folders.pop(session, None)
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
                with suppress(OSError):  # another session of the key has files
                    folder.parent.rmdir()

    def _is_own(self, session: str, path: str) -> bool:
        file, folder = Path(path), self._folders.get(session)
        return folder in file.parents and str(file) == path and ".." not in file.parts and "\0" not in path

    def _reserve(self, session: str, key: str, size: int) -> None:
        limits = self.limits
        if size > limits.request:
            raise limits.request_too_large()
        with self._lock:
            of_session = sum(other == session for other, _, _ in self._incoming)
            of_key = sum(bytes_ for _, other, bytes_ in self._incoming if other == key)
            if of_session >= limits.concurrent or of_key + size > limits.session:
                raise UploadError(429, "Too many uploads at once. Wait until the others have ended, then try again.")
            self._make_room(key, of_key + size)
            total = sum(bytes_ for _, bytes_, _ in self._kept()) + sum(bytes_ for _, _, bytes_ in self._incoming)
            if total + size > limits.total:
                raise UploadError(507, "The page has no room for more files at the moment. Try again later.")
            self._incoming.append((session, key, size))

    def _make_room(self, key: str, size: int) -> None:
        """Delete the oldest files of a key until ``size`` more bytes are within its quota. The lock is held."""
        kept = sorted(self._kept(_hash(key)))
        used = sum(bytes_ for _, bytes_, _ in kept)
        for _, bytes_, file in kept:
            if used + size <= self.limits.session:
                return
            shutil.rmtree(self.root.joinpath(*file.relative_to(self.root).parts[:3]), ignore_errors=True)
            used -= bytes_

    def _kept(self, key: str = "*") -> Iterator[tuple[int, int, Path]]:
        """Time, counted bytes and path of each file, of one key or of all."""
        for folder in self.root.glob(f"{key}/*/*"):
            for parent, _, names in os.walk(folder):
                for name in names:
                    file = Path(parent, name)
                    with suppress(FileNotFoundError):
                        status = file.lstat()
                        yield status.st_mtime_ns, max(status.st_size, MIN_FILE_BYTES), file


def store_file(name: str, data: bytes) -> str:
    """Path of a new file of the session whose event is being handled."""
    event: Any = LocalContext.request.get(None)
    store: Callable[[str, bytes], str] = event.request.scope[STORE_SCOPE_KEY]
    return store(name, data)


def path_below_upload(file: Path, root: Path) -> Path:
    """Path of a stored file in the folder that its user chose."""
    return Path(*file.relative_to(root).parts[3:])


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def _is_regular_file(path: str) -> bool:
    """False also for a link."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _at_most(size: int) -> str:
    return f"At most {size / MIB:,.0f} MB" if size >= MIB else f"At most {size:,} bytes"
