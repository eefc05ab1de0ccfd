"""The home folder (``LCL_HOME``): made if missing, usable, and closed to the machine's other users."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from lcl_core.errors import UserError

PRIVATE_UMASK = 0o077
_OTHERS = 0o077  # bits of group and others
_FOLDERS = (".", "logs", "broker")
_FILES = ("lcl.db*", "key", "key-pepper", "page-token", "webhook.key", "launcher.lock", "logs/*", "broker/*")


def private_umask() -> None:
    """From now on this process and its children make files that only their user can read."""
    os.umask(PRIVATE_UMASK)


def open_home(home: Path) -> None:
    """Make the folder if there is none, and take group's and others' rights from it, its database and its logs.

    What belongs to another user, such as a volume that a cluster made, keeps its rights; so does a folder with the
    sticky bit, which many users share on purpose.

    Raises: UserError ``home_unusable`` naming the folder and what is wrong with it.
    """
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except FileExistsError:
        raise _unusable(home, "is a file, not a folder; name a folder") from None
    except OSError as error:
        message = f"cannot be made ({error.strerror}); name a folder that can be, or mend the one above it"
        raise _unusable(home, message) from error
    if not os.access(home, os.W_OK | os.X_OK):  # false on a read-only file system, for root too
        raise _unusable(home, "cannot be written; make it writable for this user, or name another folder")
    for path in _private_paths(home):
        _close_to_others(path)


def _private_paths(home: Path) -> Iterator[Path]:
    yield from (home / name for name in _FOLDERS)
    for pattern in _FILES:
        yield from home.glob(pattern)


def _close_to_others(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    kind = found.st_mode
    if not (stat.S_ISDIR(kind) or stat.S_ISREG(kind)) or found.st_uid != os.geteuid() or kind & stat.S_ISVTX:
        return
    if kind & _OTHERS:
        path.chmod(stat.S_IMODE(kind) & ~_OTHERS)


def _unusable(home: Path, problem: str) -> UserError:
    return UserError(f"LCL_HOME: {home} {problem}", code="home_unusable")
