"""Files and folders: SHA-256, atomic writes, copies that are renamed into place, replacement, removal, flush to disk.

Also a JSON parser that rejects what parsers disagree about.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
import secrets
import shutil
import stat
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, in hex. Raises: OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(
    path: Path, data: bytes | str | Iterable[bytes], *, mode: int = 0o666, durable: bool = True
) -> None:
    """Write a temporary file beside ``path`` and rename it, so that readers see the old content or the new one.

    ``data`` may come in parts, one after the other. ``durable``: flush to disk before the rename.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with os.fdopen(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "wb") as file:
            data = data.encode() if isinstance(data, str) else data
            file.writelines([data] if isinstance(data, bytes | bytearray | memoryview) else data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_or_create(path: Path, make: Callable[[], str], *, mode: int = 0o666) -> str:
    """Text of a short file without white space around it; ``make`` makes the content where there is no file.

    Of several processes that find no file one creates it, under a lock beside it, and all return the same text.
    Raises: OSError, with ENODATA for an empty file.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f".{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                write_atomically(path, make(), mode=mode)
    text = path.read_text(encoding="ascii").strip()
    if not text:
        raise OSError(errno.ENODATA, "the file is empty; remove it, then start again", str(path))
    return text


def write_json_atomically(path: Path, value: Any) -> None:
    """Write JSON as :func:`write_atomically` does. Raises: OSError."""
    write_atomically(path, json.dumps(value, indent=1, ensure_ascii=False))


def file_age(path: Path) -> float:
    """Seconds since a file was written, by the clock of its file system: those of two machines may differ."""
    with tempfile.TemporaryFile(dir=path.parent) as probe:
        return os.fstat(probe.fileno()).st_mtime - path.stat().st_mtime


def regular_files(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Regular files below ``folder``: relative name and stat; links and hidden files are left out."""
    for parent, folders, names in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            path = Path(parent) / name
            try:
                status = path.lstat()
            except FileNotFoundError:  # files of a running job may vanish at any time
                continue
            if stat.S_ISREG(status.st_mode):
                yield path.relative_to(folder).as_posix(), status


@dataclass(frozen=True)
class Staged:
    """Copied folder, hidden beside its target until the transaction that registers it."""

    hidden: Path
    target: Path

    def publish(self) -> None:
        """Rename to the target. An existing target was left unregistered by an interrupted attempt."""
        replace_tree(self.hidden, self.target)

    def discard(self) -> None:
        """Remove the copy if it was not published."""
        remove_tree(self.hidden)


def stage(source: Path, target: Path, *, link: bool = False) -> Staged:
    """Copy the folder ``source`` to a hidden folder beside ``target`` and flush it to disk.

    ``link``: hard links where the disk allows, for large files that never change. Unfinished copies of earlier attempts
    at the same target are removed first.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{target.name}.*"):
        remove_tree(left)
    hidden = target.parent / f".{target.name}.{secrets.token_hex(4)}"
    try:
        shutil.copytree(source, hidden, copy_function=_link_or_copy if link else shutil.copy2)
        fsync_tree(hidden)
    except BaseException:
        remove_tree(hidden)
        raise
    return Staged(hidden, target)


def replace_tree(new: Path, target: Path) -> None:
    """Rename the folder ``new``, which has been flushed to disk, to ``target``, and remove an older ``target``.

    One process at a time may replace a target. Raises: OSError.
    """
    old = target.with_name(f".{target.name}.old.tmp")
    shutil.rmtree(old, ignore_errors=True)  # of a process that was killed
    if target.exists():
        target.rename(old)
    new.rename(target)
    fsync_path(target.parent)  # before the old folder is removed
    shutil.rmtree(old, ignore_errors=True)


def remove_tree(path: Path) -> None:
    """Rename a folder to a hidden name and remove it. Safe when several processes do it, or it is missing."""
    away = path.parent / f".removed-{secrets.token_hex(8)}"
    try:
        path.rename(away)
    except FileNotFoundError:
        return
    shutil.rmtree(away, onerror=_ignore_missing)


def _ignore_missing(_function: object, _path: str, error: tuple[object, BaseException, object]) -> None:
    """Error handler of ``rmtree``: another process has removed the file."""
    if not isinstance(error[1], FileNotFoundError):
        raise error[1]


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target)


def fsync_path(path: Path) -> None:
    """Flush a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_tree(folder: Path) -> None:
    """Flush a folder and everything below it to disk."""
    for path in folder.rglob("*"):
        fsync_path(path)
    fsync_path(folder)


def parse_strict_json(body: bytes | str) -> Any:
    """Parse JSON, but neither what parsers disagree about (a name that is twice in an object) nor infinite numbers.

    Raises: ValueError, of invalid JSON JSONDecodeError; RecursionError for a too deep nesting.
    """
    return json.loads(body, object_pairs_hook=_unique_names, parse_float=_finite, parse_constant=_finite)


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    parsed = dict(pairs)
    if len(parsed) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the name {twice[:80]!r} appears twice in one object")
    return parsed


def _finite(word: str) -> float:
    if not math.isfinite(number := float(word)):
        raise ValueError(f"{word[:80]} is no finite number")
    return number
