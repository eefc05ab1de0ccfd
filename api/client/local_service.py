"""Address of the service on this machine that a client without an address calls, and whether the stored key is its.

The launcher writes its addresses into the home folder and has a lock there as long as it runs. Where another user's
service has the usual port, it listens on another one, and nobody else must get the key of this home.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a Unix: no launcher runs there
    fcntl = None  # type: ignore[assignment]

DEFAULT_URL = "http://127.0.0.1:8765"
API_FILE = "api-address"  # in the home; empty while the launcher starts
LOCK_FILE = "launcher.lock"  # which the launcher of the home has locked


@dataclass(frozen=True)
class LocalService:
    """What a client calls that was given no address.

    Attributes:
        url: of the api.
        gets_key: whether the key of the home may be sent there. False while the launcher of the home does not run:
            another user's service may have its port.
    """

    url: str
    gets_key: bool = True


def home_folder() -> Path:
    """``LCL_HOME``, else ``~/.lcl``."""
    return Path(os.environ.get("LCL_HOME") or Path.home() / ".lcl")


def local_service() -> LocalService:
    """The service of ``LCL_HOME``; a home that no launcher has used is served at ``DEFAULT_URL``."""
    home = home_folder()
    url = _read(home / API_FILE)
    if url is None:
        return LocalService(DEFAULT_URL)
    if not url or not _is_locked(home / LOCK_FILE):  # the file is of a launcher that has ended, perhaps by a crash
        return LocalService(DEFAULT_URL, gets_key=False)
    return LocalService(url)


def stored_key() -> str | None:
    """The key of the home, if this user may read it."""
    return _read(home_folder() / "key") or None


def _read(file: Path) -> str | None:
    """None where there is no such file for this user."""
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None


def _is_locked(file: Path) -> bool:
    """Whether another open file has the lock."""
    if fcntl is None:
        return False
    try:
        with file.open("rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
