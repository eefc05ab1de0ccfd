"""Which home this is: several machines with homes of their own may share a database."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

_FILE = Path("runs") / ".home"  # beside what it is asked about: a copy of that, or a backup, brings it along


def home_id(home: Path) -> str:
    """32 hex digits that the home keeps; made when first asked for. Raises: OSError."""
    path = Path(home) / _FILE
    with suppress(FileNotFoundError):
        return path.read_text(encoding="ascii").strip()
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    beside.write_text(secrets.token_hex(16), encoding="ascii")
    with suppress(FileExistsError):  # another process was first: its word counts
        os.link(beside, path)
    beside.unlink()
    return path.read_text(encoding="ascii").strip()
