"""Which files on the page's disk belong to which session, and how many bytes they may be.

A file is found only by the session that it belongs to, only under the very path that the session was given, and only
while that path is a regular file. Sessions of one key share a quota: who opens many of them gains nothing.
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


@dataclass(frozen=True)
class UploadLimits:
    """Bytes of one file, of all files of one request, of all sessions of one key, and of everybody together."""

    file: int = 32 * MIB
    request: int = 256 * MIB
    session: int = 512 * MIB
    total: int = 1024 * MIB
    at_once: int = 4  # requests of one session

    def file_too_large(self) -> UploadError:
        return UploadError(413, f"A file is too large. {_at_most(self.file)} each.")

    def request_too_large(self) -> UploadError:
        return UploadError(413, f"These files are too large together. {_at_most(self.request)} at a time.")


class UploadError(Exception):
    """``status`` is HTTP's; the words are for the visitor."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class SessionFiles:
    """The files of all sessions. Safe to share between threads.

    Args:
        root: folder below which all of them lie, in folders with names that nobody can guess.
        is_open: whether a session has not ended.
    """

    def __init__(self, root: Path, bounds: UploadLimits, is_open: Callable[[str], bool]) -> None:
        self.root = root
        self.bounds = bounds
        self.is_open = is_open
        self._keys: dict[str, str] = {}  # session -> its key
        self._files: dict[str, dict[str, int]] = {}  # session -> path -> bytes, oldest first
        self._holders: Counter[str] = Counter()  # path -> sessions that hold it
        self._arriving: dict[str, list[int]] = {}  # session -> bytes of each request under way
        self._lock = threading.Lock()

    @contextmanager
    def arriving(self, session: str, key: str, size: int) -> Iterator[Path]:
        """Room for an upload of at most ``size`` bytes; older files of the same key give way to it.

        Yields: a new folder, which is removed at the end with what is left in it.

        Raises: UploadRefused 413 (request too large), 429 (too many at once), 507 (no room).
        """
        self._reserve(session, key, size)
        folder = self.root / secrets.token_hex(16)
        try:
            folder.mkdir(mode=0o700, parents=True)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            with self._lock:
                under_way = self._arriving[session]
                under_way.remove(size)
                if not under_way:
                    del self._arriving[session]

    def fresh_folder(self) -> Path:
        folder = self.root / secrets.token_hex(16)
        folder.mkdir(mode=0o700, parents=True)
        return folder

    def keep(self, session: str, key: str, path: Path) -> None:
        """From now on the file is this session's.

        Ignored when it is no regular file below the root; deleted when the session has ended meanwhile.
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
                self._holders[str(path)] += 1
            files[str(path)] = size
            self._make_room(key, 0, keeping=str(path))

    def find(self, session: str, path: str) -> Path | None:
        """The file of that very path, if it is this session's and there."""
        if path not in self._files.get(session, {}):
            return None
        found = Path(path)
        return found if _regular_file_size(found) is not None else None

    def end(self, session: str) -> None:
        """The session is over: what no other session holds is deleted."""
        with self._lock:
            for path in list(self._files.get(session, ())):
                self._drop(session, path)
            self._files.pop(session, None)
            self._keys.pop(session, None)

    def total_bytes(self) -> int:
        """Of all files that are held; one that two sessions hold counts once."""
        held: dict[str, int] = {}
        for files in list(self._files.values()):
            held |= files
        return sum(held.values())

    def _reserve(self, session: str, key: str, size: int) -> None:
        bounds = self.bounds
        if size > bounds.request:
            raise bounds.request_too_large()
        with self._lock:
            under_way = self._arriving.get(session, [])
            of_key = sum(sum(sizes) for other, sizes in self._arriving.items() if self._keys.get(other) == key)
            if len(under_way) >= bounds.at_once or of_key + size > bounds.session:
                raise UploadError(429, "Too many uploads at once. Wait until the others have ended, then try again.")
            self._make_room(key, of_key + size)
            everything = self.total_bytes() + sum(map(sum, self._arriving.values()))
            if everything + size > bounds.total:
                raise UploadError(507, "The page has no room for more files at the moment. Try again later.")
            self._keys[session] = key
            self._arriving.setdefault(session, []).append(size)

    def _make_room(self, key: str, size: int, keeping: str = "") -> None:
        """Drop the oldest files of a key until ``size`` more bytes are within its quota. The lock is held."""
        of_key = [session for session, other in self._keys.items() if other == key]
        left = sum(sum(self._files.get(session, {}).values()) for session in of_key)
        for session in of_key:
            for path, bytes_ in list(self._files.get(session, {}).items()):
                if left + size <= self.bounds.session:
                    return
                if path != keeping:
                    self._drop(session, path)
                    left -= bytes_

    def _drop(self, session: str, path: str) -> None:
        """The lock is held."""
        del self._files[session][path]
        self._holders[path] -= 1
        self._delete(path)

    def _delete(self, path: str) -> None:
        """Unless a session holds it. The lock is held."""
        if self._holders[path] > 0:
            return
        del self._holders[path]
        Path(path).unlink(missing_ok=True)
        try:
            Path(path).parent.rmdir()
        except OSError:  # another file is in it
            return


def _regular_file_size(path: Path) -> int | None:
    """Bytes of a regular file; None for links, devices, folders and what is not there."""
    try:
        found = os.lstat(path)
    except (OSError, ValueError):  # ValueError: a name with NUL
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _at_most(size: int) -> str:
    return f"At most {size / MIB:,.0f} MB" if size >= MIB else f"At most {size:,} bytes"
