"""Home folder (``LCL_HOME``): created, checked, closed to other users; and the secret files in it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from lcl_core.common.errors import UserError
from lcl_core.common.files import write_atomically

PRIVATE_UMASK = 0o077
_GROUP_AND_OTHERS = 0o077  # bits of group and others
_FOLDERS = (".", "logs", "broker")
_FILES = ("lcl.db*", "key", "key-pepper", "page-token", "webhook.key", "launcher.lock", "logs/*", "broker/*")


def private_umask() -> None:
    """From now on this process and its children make files that only their user can read."""
    os.umask(PRIVATE_UMASK)


def prepare_home(home: Path) -> None:
    """Make the folder if there is none, and take group's and others' rights from it, its database and its logs.

    What belongs to another user, such as a volume that a cluster made, keeps its rights; so does a folder with the
    sticky bit, which many users share on purpose.

    Raises: UserError ``home_unusable`` naming the folder and what is wrong with it.
    """
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except FileExistsError:
        raise _home_unusable(home, "is a file, not a folder; name a folder") from None
    except OSError as error:
        message = f"cannot be made ({error.strerror}); name a folder that can be, or mend the one above it"
        raise _home_unusable(home, message) from error
    if not os.access(home, os.W_OK | os.X_OK):  # false on a read-only file system, for root too
        raise _home_unusable(home, "cannot be written; make it writable for this user, or name another folder")
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
    if kind & _GROUP_AND_OTHERS:
        path.chmod(stat.S_IMODE(kind) & ~_GROUP_AND_OTHERS)


def _home_unusable(home: Path, problem: str) -> UserError:
    return UserError(f"LCL_HOME: {home} {problem}", code="home_unusable")


def load_or_create_secret(file: Path, make: Callable[[], str]) -> str:
    """What the file holds; with mode 600 and in one piece made by ``make`` when there is none.

    Of several processes that find none, one makes it, and all return the same. Raises: OSError.
    """
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, make() + "\n", mode=0o600, replace=False)
    if file.stat().st_mode & 0o077:
        file.chmod(0o600)
    return file.read_text(encoding="ascii").strip()
