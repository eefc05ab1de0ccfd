"""Files and folders: SHA-256, atomic writes, staged copies that are renamed into place, removal, flush to disk."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, in hex. Raises: OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(
    path: Path, data: bytes | str, *, mode: int = 0o666, replace: bool = True, durable: bool = True
) -> None:
    """Write a temporary file beside ``path`` and rename it, so that readers see the old content or the new one.

    Args:
        mode: permissions of a new file, before the umask.
        replace: False keeps a file that is there already, also one that another process makes meanwhile.
        durable: flush to disk before the rename.

    Raises: OSError.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with os.fdopen(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        if replace:
            temporary.replace(path)
        else:
            with suppress(FileExistsError):
                os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json_atomically(path: Path, value: Any) -> None:
    """Write JSON as :func:`write_atomically` does. Raises: OSError."""
    write_atomically(path, json.dumps(value, indent=1, ensure_ascii=False))


def regular_files(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Regular files below ``folder`` by relative name, with their facts; links and hidden files are left out."""
    for place, folders, names in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            path = Path(place) / name
            try:
                facts = path.lstat()
            except FileNotFoundError:  # a file of a run at work may go at any time
                continue
            if stat.S_ISREG(facts.st_mode):
                yield path.relative_to(folder).as_posix(), facts


@dataclass(frozen=True)
class Staged:
    """A copied folder that waits, hidden beside its final place, for the transaction that registers it."""

    hidden: Path
    target: Path

    def publish(self) -> None:
        """Rename into place. What lies there can only be what an interrupted attempt left unregistered."""
        if self.target.exists():
            remove_tree(self.target)
        self.hidden.rename(self.target)
        fsync_path(self.target.parent)

    def discard(self) -> None:
        """Remove the copy if it was not published."""
        remove_tree(self.hidden)


def stage(source: Path, target: Path, *, link: bool = False) -> Staged:
    """Copy the folder ``source`` to a hidden place beside ``target`` and flush it to disk.

    ``link``: files share their bytes with the source where the disk allows it, for what is large and never changes.
    Copies that earlier attempts at the same target left unfinished are removed first.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{target.name}.*"):
        remove_tree(left)
    hidden = target.parent / f".{target.name}.{secrets.token_hex(4)}"
    try:
        shutil.copytree(source, hidden, copy_function=_link_or_copy if link else shutil.copy2)
        for path in hidden.rglob("*"):
            fsync_path(path)
        fsync_path(hidden)
    except BaseException:
        remove_tree(hidden)
        raise
    return Staged(hidden, target)


def discard_run_dir(runs_dir: Path, run_id: str) -> None:
    """Remove RUN_DIR of a deleted run: hidden by a rename first, so that it is never seen half removed."""
    remove_tree(Path(runs_dir) / run_id)


def remove_tree(path: Path) -> None:
    """Remove a folder, if it is there, out of sight first. Several may remove the same one at once."""
    away = path.parent / f".removed-{secrets.token_hex(8)}"
    try:
        path.rename(away)
    except FileNotFoundError:
        return
    shutil.rmtree(away, onerror=_ignore_missing)


def _ignore_missing(_function: object, _path: str, error: tuple[object, BaseException, object]) -> None:
    """What another has removed meanwhile is what was wanted."""
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
