"""Secrets that the service makes itself and keeps in files of its home folder."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path


def kept_secret(file: Path, make: Callable[[], str]) -> str:
    """What the file holds; with mode 600 and in one piece made by ``make`` when there is none.

    Of several processes that find none, one makes it, and all return the same. Raises: OSError.
    """
    if not file.exists():
        _write_once(file, make())
    if file.stat().st_mode & 0o077:
        file.chmod(0o600)
    return file.read_text(encoding="ascii").strip()


def _write_once(file: Path, secret: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.{secrets.token_hex(4)}.tmp")
    try:
        with os.fdopen(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as out:
            out.write(secret + "\n")
            out.flush()
            os.fsync(out.fileno())
        os.link(beside, file)  # unlike a rename, never replaces another process's secret
    except FileExistsError:
        return
    finally:
        beside.unlink(missing_ok=True)
