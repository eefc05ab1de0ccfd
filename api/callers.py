"""Who is calling, and the keys that were found valid a moment ago."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from api.errors import Problem

KNOWN_SECONDS = 1.0
_MOST = 1024


@dataclass(frozen=True)
class Caller:
    """Whose key came with the request."""

    owner: str
    role: str
    prefix: str

    @property
    def sees(self) -> str | None:
        """Whose runs and studies: its owner's; None: everybody's, which is an admin's sight."""
        return None if self.role == "admin" else self.owner


def check_owner(caller: Caller, noun: str, name: str, owner: str) -> None:
    """Raises: Problem 403 unless what everybody sees is the caller's own to delete."""
    if caller.sees not in (None, owner):
        raise Problem(403, "forbidden", f"{noun} {name!r} is {owner}'s: its owner or an admin may delete it")


@dataclass(frozen=True)
class _Known:
    """``until``: by the clock of Callers; ``ends``: by everybody's."""

    caller: Caller
    until: float
    ends: datetime | None


class Callers:
    """Callers by their keys, for a second: a client that asks much is looked up once in it. Thread-safe.

    A change of keys in this process is seen at once (``forget``), one in another within that second.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[bytes, _Known] = {}
        self._changes = 0
        self._lock = threading.Lock()

    @property
    def changes(self) -> int:
        """A look at the database that began before the last change must not be noted after it."""
        with self._lock:
            return self._changes

    def known(self, key: str, moment: datetime) -> Caller | None:
        """Whose key it is, if that was found out within the last second and is true at this ``moment`` as well."""
        with self._lock:
            found = self._known.get(_digest(key))
        if found is None or self._clock() >= found.until or (found.ends is not None and moment >= found.ends):
            return None
        return found.caller

    def note(self, key: str, caller: Caller, changes: int, ends: datetime | None) -> None:
        """Remember a valid key.

        Args:
            changes: as they were before the database was asked.
            ends: the key may not open from then on; None: no such moment is known.
        """
        with self._lock:
            if changes != self._changes:
                return
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[_digest(key)] = _Known(caller, self._clock() + KNOWN_SECONDS, ends)

    def forget(self) -> None:
        """Keys have changed."""
        with self._lock:
            self._changes += 1
            self._known.clear()


def _digest(key: str) -> bytes:
    """No key is kept in memory for longer than its request."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
