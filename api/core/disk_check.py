"""Probe of the folders that the service writes to, and disk faults behind database errors."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from pathlib import Path

from sqlalchemy import make_url

from api.core.settings import ApiSettings
from lcl_core.common.system_errors import FailureCode, failure_code

PROBE_BYTES = bytes(4096)
POSTGRES_DISK_FULL = "53100"
FAULT_MESSAGES = {
    FailureCode.DISK_FULL: "there is no space left in {folder}; free some there, then try again",
    FailureCode.READ_ONLY: "nothing can be written in {folder}; make it writable, then try again",
}
SQLITE_FAULTS = {"SQLITE_FULL": FailureCode.DISK_FULL, "SQLITE_READONLY": FailureCode.READ_ONLY}


def writable_folders(settings: ApiSettings) -> list[Path]:
    """The home, and the folder of the database where that is a file elsewhere."""
    url = make_url(settings.resolved_database_url)
    home = settings.home.expanduser().resolve()
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return [home]
    return list(dict.fromkeys((home, Path(url.database).expanduser().resolve().parent)))


def probe_folder(folder: Path) -> str | None:
    """What keeps a small file from being written there, in words; None when it was written. It is removed again."""
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".probe-") as probe:
            probe.write(PROBE_BYTES)
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        return (
            disk_fault_message(failure_code(error, folder), folder)
            or f"{folder} cannot be written to: {error.strerror}"
        )
    return None


def disk_fault_message(fault: FailureCode | None, folder: str | Path) -> str | None:
    """What to do about a disk that is full or read-only; None for other faults."""
    return FAULT_MESSAGES[fault].format(folder=folder) if fault in FAULT_MESSAGES else None


def database_disk_fault(error: BaseException | None, folders: list[Path]) -> tuple[FailureCode, str] | None:
    """The fault of a disk behind a driver's error, and what to do about it; None when it is something else.

    SQLite has an error of its own for a full disk only where it meets one while it writes; elsewhere it speaks of an
    error of input or output, and the folder itself is asked.
    """
    if getattr(error, "sqlstate", None) == POSTGRES_DISK_FULL:
        return FailureCode.DISK_FULL, FAULT_MESSAGES[FailureCode.DISK_FULL].format(
            folder="the database server's data folder"
        )
    if not isinstance(error, sqlite3.Error):
        return None
    name = getattr(error, "sqlite_errorname", "")
    folder = folders[-1]
    fault = next((fault for start, fault in SQLITE_FAULTS.items() if name.startswith(start)), None)
    if fault is None and name.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN")):
        problem = probe_folder(folder)
        return None if problem is None else (FailureCode.DISK_FULL, problem)
    return None if fault is None else (fault, FAULT_MESSAGES[fault].format(folder=folder))
