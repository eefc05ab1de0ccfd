"""Words as they were written, and choices that depend on words alone."""

from __future__ import annotations

import hashlib
import html
import re

_BLANKS = re.compile(r"\s+")
_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"“(])")
SHORT = 3  # words: what is shorter is no sentence of its own


def plain(text: str | None) -> str:
    """Entities resolved, runs of blanks made one."""
    return _BLANKS.sub(" ", html.unescape(text or "")).strip()


def sentences(text: str) -> list[str]:
    """Cut after a full stop before a capital; pieces of fewer than three words stay with their neighbour."""
    found: list[str] = []
    for piece in _END.split(text):
        if found and (len(piece.split()) < SHORT or len(found[-1].split()) < SHORT):
            found[-1] += f" {piece}"
        else:
            found.append(piece)
    return found


def share_of(key: str) -> float:
    """A number in [0, 1) that belongs to ``key``: the first 32 bits of its SHA-1."""
    digest = hashlib.sha1(key.encode(), usedforsecurity=False).hexdigest()
    return int(digest[:8], 16) / 2**32


def split_of(key: str, val: float = 0.05, test: float = 0.10) -> str:
    """The same split for everything that shares ``key``."""
    share = share_of(f"split:{key}")
    if share < test:
        return "test"
    return "val" if share < test + val else "train"
