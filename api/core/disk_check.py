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
    """The home, and the folder of an SQLite database elsewhere."""
    url = make_url(settings.resolved_database_url)
    home = settings.home.expanduser().resolve()
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return [home]
    return list(dict.fromkeys((home, Path(url.database).expanduser().resolve().parent)))


def probe_folder(folder: Path) -> str | None:
    """Write and remove a small file. Returns: the problem; None if there was none."""
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".probe-") as probe:
            probe.write(PROBE_BYTES)
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        fault = failure_code(error, folder)
        return disk_fault_message(fault, folder) or f"{folder} cannot be written to: {error.strerror}"
    return None


def disk_fault_message(fault: FailureCode | None, folder: str | Path) -> str | None:
    """Message for a full or read-only disk; None for other faults."""
    return FAULT_MESSAGES[fault].format(folder=folder) if fault in FAULT_MESSAGES else None


def database_disk_fault(error: BaseException | None, folders: list[Path]) -> tuple[FailureCode, str] | None:
    """The disk fault behind a database driver's error, with its message; None: another error.

    SQLite reports a full disk as such only during a write, otherwise as an I/O error: then the folder is probed.
    """
    if getattr(error, "sqlstate", None) == POSTGRES_DISK_FULL:
        folder_name = "the database server's data folder"
        return FailureCode.DISK_FULL, FAULT_MESSAGES[FailureCode.DISK_FULL].format(folder=folder_name)
    if not isinstance(error, sqlite3.Error):
        return None
    name = getattr(error, "sqlite_errorname", "")
    folder = folders[-1]
    fault = next((fault for start, fault in SQLITE_FAULTS.items() if name.startswith(start)), None)
    if fault is None and name.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN")):
        problem = probe_folder(folder)
        return None if problem is None else (FailureCode.DISK_FULL, problem)
    return None if fault is None else (fault, FAULT_MESSAGES[fault].format(folder=folder))
