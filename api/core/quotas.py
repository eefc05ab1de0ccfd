"""Quotas of one owner: unfinished runs, and bytes that the service keeps.

Checked inside the transaction that writes. Far below a limit a check costs nothing: after counting, a process admits a
quarter of the remaining room before it counts again, so that several processes together do not overrun the limit.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.core.errors import Problem
from lcl_core.db import quotas

COUNT_VALID_SECONDS = 5.0  # for which a count is used
UNCOUNTED_SHARE = 4  # a quarter of the remaining room is admitted without another count
_MAX_CACHED_OWNERS = 1024  # owners


@dataclass
class _RunAllowance:
    """Runs of an owner that may be admitted without another count."""

    valid_until: float
    remaining: int


class Quotas:
    """Thread-safe.

    Args:
        runs: unfinished runs of an owner; 0: unlimited.
        bytes: stored bytes of an owner; 0: unlimited.
        clock: monotonic seconds.
    """

    def __init__(self, runs: int, bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.runs, self.bytes = runs, bytes
        self._clock = clock
        self._runs: dict[str, _RunAllowance] = {}
        self._bytes: dict[str, float] = {}  # until when an owner counts as below the limit
        self._lock = threading.Lock()

    @contextmanager
    def admit_runs(self, session: Session, owner: str, most: int | None = None) -> Iterator[None]:
        """Around code that may create runs of ``owner``, or queue finished ones again.

        Args:
            most: largest number of such runs; None: unknown.

        Raises: Problem 403 ``quota_exceeded``; the transaction must be rolled back then.
        """
        if self.bytes and not self._recently_below(owner):
            self.check_bytes(session, owner)
        if not self.runs or (most is not None and self._fits_allowance(owner, most)):
            yield
            return
        _lock_owner(session, owner)
        before = quotas.count_unfinished_runs(session, owner)
        yield
        after = quotas.count_unfinished_runs(session, owner)
        if after > before and after > self.runs:
            raise _quota_error(
                f"{owner} has {before:,} unfinished runs and would have {after:,}, of {self.runs:,} that an owner may "
                "have (LCL_QUEUED_RUNS_PER_OWNER); wait until some are finished, or cancel some"
            )
        self._record_allowance(owner, max(0, self.runs - after) // UNCOUNTED_SHARE)

    def check_bytes(self, session: Session, owner: str, adding: int = 0) -> None:
        """Raises: Problem 403 ``quota_exceeded`` for an owner at the limit, or above it with ``adding`` more bytes."""
        if not self.bytes:
            return
        used = quotas.owner_bytes(session, owner)
        if used + adding > self.bytes or used >= self.bytes:
            more = f" and would keep {used + adding:,}" if adding else ""
            raise _quota_error(
                f"{owner} keeps {used:,} bytes{more}, of {self.bytes:,} that an owner may keep "
                "(LCL_BYTES_PER_OWNER); delete runs or collections that are not needed, or ask an admin"
            )
        with self._lock:
            if len(self._bytes) >= _MAX_CACHED_OWNERS:
                self._bytes.clear()
            self._bytes[owner] = self._clock() + COUNT_VALID_SECONDS

    def charge_folder(self, session: Session, owner: str, path: str, size: int) -> None:
        """Charge a folder of the home to its owner. Raises: Problem 403 ``quota_exceeded``."""
        _lock_owner(session, owner)
        self.check_bytes(session, owner, size)
        quotas.record_bytes(session, path, owner, size)

    def charge_addition(self, session: Session, owner: str, collection_id: str, size: int) -> None:
        """Charge items added to a collection. Raises: Problem 403 ``quota_exceeded``."""
        _lock_owner(session, owner)
        self.check_bytes(session, owner, size)
        quotas.add_collection_bytes(session, collection_id, owner, size)

    def _recently_below(self, owner: str) -> bool:
        with self._lock:
            return self._bytes.get(owner, 0.0) > self._clock()

    def _fits_allowance(self, owner: str, most: int) -> bool:
        with self._lock:
            seen = self._runs.get(owner)
            if seen is None or seen.valid_until <= self._clock() or seen.remaining < most:
                return False
            seen.remaining -= most
            return True

    def _record_allowance(self, owner: str, left: int) -> None:
        with self._lock:
            if len(self._runs) >= _MAX_CACHED_OWNERS:
                self._runs.clear()
            self._runs[owner] = _RunAllowance(self._clock() + COUNT_VALID_SECONDS, left)


def _lock_owner(session: Session, owner: str) -> None:
    """Serialise counts of one owner until the transaction ends. On SQLite write transactions are serial anyway."""
    if session.get_bind().dialect.name == "postgresql":
        digest = hashlib.sha256(f"lcl quota {owner}".encode()).digest()
        session.execute(select(func.pg_advisory_xact_lock(int.from_bytes(digest[:8], signed=True))))


def _quota_error(message: str) -> Problem:
    return Problem(403, "quota_exceeded", message)
