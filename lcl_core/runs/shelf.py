"""Folders that were fetched from the store of artifacts, kept on the local disk within a bound.

    FOLDER/encoders~enc_…~1/        an entry: whole, its bytes checked; appears by renaming
    FOLDER/encoders~enc_…~1.lock    shared by those who use it, exclusive for who fetches or removes it
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
from datetime import datetime
from pathlib import Path
from typing import IO

from lcl_core.errors import UserError
from lcl_core.runs.artifacts import sync
from lcl_core.runs.deposits import Files

_LOOK_SECONDS = 0.1
_TORN = "."  # how folders begin that are being fetched
Read = Callable[[str, int], Iterable[bytes]]  # of (name, bytes)


def nothing() -> None:
    """What is called while fetching goes on, for those who need not know."""


class Shelf:
    """Least recently used goes first, and never what is in use. Safe with several processes and threads.

    Args:
        folder: made when needed.
        max_bytes: bound on the entries together; what is in use may exceed it.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes

    @contextlib.contextmanager
    def using(self, key: str, files: Files, read: Read, tick: Callable[[], None] = nothing) -> Iterator[Path]:
        """The folder of these files, fetched if need be; it stays at least until the end of the block.

        Args:
            key: its place in the store, and perhaps a folder below that.
            tick: called again and again while fetching goes on, by somebody else too; what it raises ends it.

        Raises: UserError ``artifact_damaged``, ``cache_unwritable``, or what ``read`` raises.
        """
        entry = self.folder / key.replace("/", "~")
        with self._taken(entry, files, read, tick):
            os.utime(_lock_of(entry))  # the time of the last use orders the removal; the folder looks as it was made
            yield entry

    @contextlib.contextmanager
    def _taken(self, entry: Path, files: Files, read: Read, tick: Callable[[], None]) -> Iterator[None]:
        with self._lock_file(entry) as lock:
            while not (_locked(lock, fcntl.LOCK_SH) and entry.is_dir()):
                if _locked(lock, fcntl.LOCK_EX):
                    if not entry.is_dir():
                        self._fetch(entry, files, read, tick)
                else:
                    tick()
                    time.sleep(_LOOK_SECONDS)
            yield

    def _fetch(self, entry: Path, files: Files, read: Read, tick: Callable[[], None]) -> None:
        torn = self.folder / f"{_TORN}{entry.name}.{secrets.token_hex(4)}"
        try:
            self._make_room(sum(facts["bytes"] for facts in files.values()))
            torn.mkdir()
            for name, facts in files.items():
                target = torn / name
                target.parent.mkdir(parents=True, exist_ok=True)
                _write(target, read(name, facts["bytes"]), facts["sha256"], tick)
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
        for torn in (path for path in folders if path.name.startswith(_TORN)):
            self._remove(torn, torn.name[len(_TORN) :].rpartition(".")[0])
        entries = [(_used_at(path), _bytes(path), path) for path in folders if not path.name.startswith(_TORN)]
        left = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if left + wanted <= self.max_bytes:
                return
            if self._remove(path, path.name):
                left -= size

    def _remove(self, path: Path, name: str) -> bool:
        """Whether nobody uses, or fetches, the entry ``name``: then the folder is gone."""
        with self._lock_file(self.folder / name) as lock:
            if not _locked(lock, fcntl.LOCK_EX):
                return False
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(path)  # nobody looks at it without the lock
            return True

    def _lock_file(self, entry: Path) -> IO[str]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            return _lock_of(entry).open("a")
        except OSError as error:
            message = f"there is no way to keep what is in the store ({error.strerror}); make the folder writable"
            raise UserError(message, code="cache_unwritable", file=self.folder) from error


def _locked(lock: IO[str], kind: int) -> bool:
    """Whether the lock is ours now. One of the other kind is given up first."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        fcntl.flock(lock, fcntl.LOCK_UN)
        return False
    return True


def _write(target: Path, chunks: Iterable[bytes], sha256: str, tick: Callable[[], None]) -> None:
    digest = hashlib.sha256()
    with target.open("wb") as file:
        for chunk in chunks:
            digest.update(chunk)
            file.write(chunk)
            tick()
    if digest.hexdigest() != sha256:
        message = "the store does not hold what was sent to it: its bytes differ; restore the object, or run anew"
        raise UserError(message, code="artifact_damaged", file=target.name)
    sync(target)


def _lock_of(entry: Path) -> Path:
    return entry.with_name(f"{entry.name}.lock")


def _used_at(entry: Path) -> int:
    return _lock_of(entry).stat().st_mtime_ns


def _bytes(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total
