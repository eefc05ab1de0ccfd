"""Files and folders: hashes, staged copies that are renamed into place, removal, flush to disk."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


def sha256_of(path: Path) -> str:
    """Hex digest of a file. Raises: OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def regular_files(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """(relative name, status) of the regular files below ``folder``, without links and hidden files."""
    for parent, folders, names in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            path = Path(parent) / name
            try:
                status = path.lstat()
            except FileNotFoundError:  # a running job may delete its files
                continue
            if stat.S_ISREG(status.st_mode):
                yield path.relative_to(folder).as_posix(), status


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside ``path`` and rename: a reader sees the old file or the new one. Raises: OSError."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class Staged:
    """A copied folder, hidden beside its target until the transaction that registers it."""

    hidden: Path
    target: Path

    def publish(self) -> None:
        """Rename to the target. A folder there can only be an unregistered copy of an interrupted attempt."""
        if self.target.exists():
            remove_tree(self.target)
        self.hidden.rename(self.target)
        fsync_path(self.target.parent)

    def discard(self) -> None:
        """Remove the copy, unless it was published."""
        remove_tree(self.hidden)


def stage(source: Path, target: Path, *, link: bool = False) -> Staged:
    """Copy the folder ``source`` to a hidden folder beside ``target`` and flush it to disk.

    Hidden copies that earlier attempts left are removed.

    Args:
        link: hard-link the files where the disk allows it; for large files that never change.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for stale in target.parent.glob(f".{target.name}.*"):
        remove_tree(stale)
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
    """Remove the directory of a deleted run."""
    remove_tree(Path(runs_dir) / run_id)


def remove_tree(path: Path) -> None:
    """Remove a folder, if it exists. It is renamed first, so nobody sees it half removed; several may do so at once."""
    away = path.parent / f".removed-{secrets.token_hex(8)}"
    try:
        path.rename(away)
    except FileNotFoundError:
        return
    shutil.rmtree(away, onerror=_ignore_missing)


def _ignore_missing(_function: object, _path: str, error: tuple[object, BaseException, object]) -> None:
    if not isinstance(error[1], FileNotFoundError):
        raise error[1]


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without hard links
        shutil.copy2(source, target)


def fsync_path(path: Path) -> None:
    """Flush a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
