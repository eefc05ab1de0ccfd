"""The token that opens the page on one machine, kept partial the service's key.

Imports nothing heavy: the launcher prints the address with the token first.
"""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

TOKEN_FILE = "page-token"  # noqa: S105
TOKEN_PATTERN = re.compile(r"[A-Za-z0-9_-]{16,256}", re.ASCII)
TOKEN_RULE = "must be 16 to 256 letters, digits, - or _ (or empty: whoever reaches the page may use it)"  # noqa: S105


def default_home() -> Path:
    """``LCL_HOME``, else ``~/.lcl``, as for the client's key."""
    return Path(os.environ.get("LCL_HOME") or Path.home() / ".lcl")


def load_or_create_token(home: Path) -> str:
    """The token in ``home``; a missing or malformed one is created, readable by its owner only.

    Raises: OSError when ``home`` cannot be written.
    """
    file = home / TOKEN_FILE
    try:
        token = file.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        token = ""
    if TOKEN_PATTERN.fullmatch(token):
        file.chmod(0o600)
        return token
    token = secrets.token_urlsafe(32)
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = file.with_name(f"{TOKEN_FILE}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as out:
        out.write(token + "\n")
    partial.replace(file)
    return token


def url_with_token(address: str, token: str) -> str:
    """The address that opens the page; unchanged for an empty token."""
    return f"{address}/?token={token}" if token else address
