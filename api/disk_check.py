"""Whether the folders that the service writes to still take anything."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from pathlib import Path

from sqlalchemy import make_url

from api.settings import ApiSettings
from lcl_core.faults import Fault, fault_of

PROBE = bytes(4096)
POSTGRES_DISK_FULL = "53100"
WORDS = {
    Fault.DISK_FULL: "there is no space left in {folder}; free some there, then try again",
    Fault.READ_ONLY: "nothing can be written in {folder}; make it writable, then try again",
}
CODES = {"SQLITE_FULL": Fault.DISK_FULL, "SQLITE_READONLY": Fault.READ_ONLY}


def folders_of(settings: ApiSettings) -> list[Path]:
    """The home, and the folder of the database where that is a file elsewhere."""
    url = make_url(settings.resolved_database_url)
    home = settings.home.expanduser().resolve()
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return [home]
    return list(dict.fromkeys((home, Path(url.database).expanduser().resolve().parent)))


def problem_of(folder: Path) -> str | None:
    """What keeps a small file from being written there, in words; None when it was written. It is removed again."""
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".probe-") as probe:
            probe.write(PROBE)
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        return words_of(fault_of(error, folder), folder) or f"{folder} cannot be written to: {error.strerror}"
    return None


def words_of(fault: Fault | None, folder: str | Path) -> str | None:
    """What to do about a disk that is full or read-only; None for other faults."""
    return WORDS[fault].format(folder=folder) if fault in WORDS else None


def fault_of_database(error: BaseException | None, folders: list[Path]) -> tuple[Fault, str] | None:
    """The fault of a disk behind a driver's error, and what to do about it; None when it is something else.

    SQLite has an error of its own for a full disk only where it meets one while it writes; elsewhere it speaks of an
    error of input or output, and the folder itself is asked.
    """
    if getattr(error, "sqlstate", None) == POSTGRES_DISK_FULL:
        return Fault.DISK_FULL, WORDS[Fault.DISK_FULL].format(folder="the database server's data folder")
    if not isinstance(error, sqlite3.Error):
        return None
    name = getattr(error, "sqlite_errorname", "")
    folder = folders[-1]
    fault = next((fault for start, fault in CODES.items() if name.startswith(start)), None)
    if fault is None and name.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN")):
        problem = problem_of(folder)
        return None if problem is None else (Fault.DISK_FULL, problem)
    return None if fault is None else (fault, WORDS[fault].format(folder=folder))
