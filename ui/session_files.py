"""Uploaded files of each session, within limits on bytes.

A session's files are below its own folder, which is in that of its key. A file is found only by its own session, while
its path is a regular file there. Sessions of one key share a quota.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from api.client import ApiError
from ui.sessions import SessionStore, UserSession, own_session
from ui.settings import MIB, UiSettings

MIN_FILE_BYTES = 4096  # that a file counts as: an empty one needs a folder and an entry too
ANNOUNCED = "announced"  # in the folder of an upload under way: an empty file as large as what is to come


class SessionFiles:
    """The files of all sessions. Safe to share between threads.

    Args:
        root: folder of all files, which are at ``KEY/SESSION/UPLOAD/NUMBER/NAME``, or in folders above NAME.
        limits: on the bytes of a file, of an upload, of a key, and of all.
    """

    def __init__(self, root: Path, limits: UiSettings, sessions: SessionStore) -> None:
        self.root = root
        self.limits = limits
        self.sessions = sessions
        self._lock = threading.Lock()
        sessions.on_end.append(self._close)

    @contextmanager
    def receive(self, session: UserSession, size: int) -> Iterator[Path]:
        """A new folder for an upload of ``size`` bytes; the oldest uploads of the key are deleted to make room.

        The folder goes if the block fails, or if the session ends meanwhile.

        Raises: ApiError 413 (upload too large), 429 (too many at once), 507 (no room).
        """
        if size > self.limits.max_upload_request:
            raise too_large("These files are too large together.", self.limits.max_upload_request)
        folder = self._folder(session) / f"{time.time_ns():020d}-{secrets.token_hex(16)}"  # oldest first
        with self._lock:
            self._make_room(session, size)
            folder.mkdir(mode=0o700, parents=True)
            with (folder / ANNOUNCED).open("xb") as file:
                file.truncate(size)
        try:
            yield folder
            (folder / ANNOUNCED).unlink(missing_ok=True)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            if self.sessions.find(session.token) is None:
                self._close(session)
            with self._lock:
                self._make_room(session, 0)  # small files count as more than they have

    def find(self, session: UserSession, path: str) -> Path | None:
        """The file with exactly this path, if it is a regular file, and no link, of the session."""
        if os.path.normpath(path) != path or self._folder(session) not in Path(path).parents:
            return None
        with suppress(OSError, ValueError):  # ValueError: a NUL in the path
            return Path(path) if stat.S_ISREG(os.lstat(path).st_mode) else None
        return None

    def _folder(self, session: UserSession) -> Path:
        return self.root.joinpath(*session.names)

    def _close(self, session: UserSession) -> None:
        """Delete the files of a session that has ended."""
        folder = self._folder(session)
        with self._lock:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # another session of the key has files, or none had any
                folder.parent.rmdir()

    def _make_room(self, session: UserSession, size: int) -> None:
        """Delete the oldest uploads of the key until ``size`` more bytes are permitted. The lock is held.

        Raises: ApiError.
        """
        uploads = sorted(self._folder(session).parent.glob("*/*"), key=lambda folder: folder.name)
        over = sum(map(_counted_bytes, uploads)) + size - self.limits.session_uploads
        for upload in uploads:
            if over > 0 and not (upload / ANNOUNCED).exists():
                over -= _counted_bytes(upload)
                shutil.rmtree(upload, ignore_errors=True)
        if over > 0:
            message = "Too many uploads at once. Wait until the others have ended, then try again."
            raise ApiError(429, "too_many_uploads", message)
        if size and sum(map(_counted_bytes, self.root.glob("*/*/*"))) + size > self.limits.all_uploads:
            raise ApiError(507, "no_room", "The page has no room for more files at the moment. Try again later.")


current_files: ContextVar[SessionFiles] = ContextVar("lcl_files")  # of the page whose event is being handled


def store_file(name: str, data: bytes) -> str:
    """Path of a new file of the session whose event is being handled. Raises: ApiError."""
    with current_files.get().receive(own_session(), len(data)) as folder:
        path = folder / "0" / name
        path.parent.mkdir()
        path.write_bytes(data)
        return str(path)


def path_below_upload(file: Path, root: Path) -> Path:
    """Path of a stored file in the folder that its user chose."""
    return Path(*file.relative_to(root).parts[4:])


def too_large(message: str, most: int) -> ApiError:
    size = f"{most / MIB:,.0f} MB" if most >= MIB else f"{most:,} bytes"
    return ApiError(413, "too_large", f"{message} At most {size}.")


def _counted_bytes(upload: Path) -> int:
    """What was announced, of an upload under way; else what its files count as."""
    with suppress(FileNotFoundError):
        return (upload / ANNOUNCED).stat().st_size
    files = (os.path.join(parent, name) for parent, _, names in os.walk(upload) for name in names)
    return sum(max(os.lstat(file).st_size, MIN_FILE_BYTES) for file in files) or MIN_FILE_BYTES
