"""Bounds of a request and of callers: requests a minute of one key, unfinished runs of one owner."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from limits import RateLimitItemPerMinute
from limits.aio.strategies import FixedWindowRateLimiter
from limits.storage import storage_from_string
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.core.errors import Problem
from lcl_core.db.runs import unfinished_runs_by_owner

MAX_BODY_BYTES = 64 << 20  # of a request, which the gateway bounds as well
BODY_SECONDS = 60.0  # in which a body arrives
MAX_INPUTS = 256  # texts and images of an inference request
MAX_TEXT_CHARACTERS = 20_000  # of one text
MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS = 16 << 20, 40_000_000  # of one encoded image
MAX_REQUEST_PIXELS = 200_000_000  # of all images of a request together
WRITING_SECONDS = 120.0  # after which captions and continuations that are not written end with an error
RETRY_SECONDS = 10.0  # after which a Redis that did not answer is asked again
ANSWER_SECONDS = 1.0
log = structlog.get_logger(__name__)


class RateLimiter:
    """Requests of each key in a minute: counted in Redis over all processes of the service, else by this process.

    While Redis does not answer, each process counts for itself. Only valid keys use its memory.

    Args:
        broker_url: of Redis, as Celery writes it; empty: none.
    """

    def __init__(self, per_minute: int, broker_url: str = "") -> None:
        self._limit = RateLimitItemPerMinute(per_minute)
        self._own = FixedWindowRateLimiter(storage_from_string("async+memory://"))
        self._shared: FixedWindowRateLimiter | None = None
        self._errors: tuple[type[Exception], ...] = ()
        self._asked_again_at = 0.0
        if broker_url.startswith(("redis://", "rediss://")):
            seconds = {"socket_timeout": ANSWER_SECONDS, "socket_connect_timeout": ANSWER_SECONDS}
            storage = storage_from_string(f"async+{broker_url}", implementation="redispy", **seconds)
            self._shared, self._errors = FixedWindowRateLimiter(storage), _as_tuple(storage.base_exceptions)

    async def hit(self, key: str) -> None:
        """Count a request. Raises: Problem 429 ``too_many_requests``."""
        limiter = self._own
        if self._shared is not None and time.monotonic() >= self._asked_again_at:
            limiter = self._shared
        try:
            if await limiter.hit(self._limit, key):
                return
            reset = (await limiter.get_window_stats(self._limit, key)).reset_time
        except self._errors as error:
            log.warning("limits_not_shared", error=str(error))
            self._asked_again_at = time.monotonic() + RETRY_SECONDS
            return
        wait = max(1, math.ceil(reset - time.time()))
        message = f"more than {self._limit.amount} requests in a minute (LCL_REQUESTS_PER_MINUTE); wait {wait} s"
        raise Problem(429, "too_many_requests", message, headers={"retry-after": str(wait)})


def _as_tuple(errors: type[Exception] | tuple[type[Exception], ...]) -> tuple[type[Exception], ...]:
    return errors if isinstance(errors, tuple) else (errors,)


class RunQuota:
    """Bound of the unfinished runs of an owner, checked in the transaction that writes; 0: no bound."""

    def __init__(self, runs: int) -> None:
        self.runs = runs

    @contextmanager
    def admit(self, session: Session, owner: str) -> Iterator[None]:
        """Around code that makes runs of ``owner``, or queues finished ones again.

        Raises: Problem 403 ``quota_exceeded``; the transaction must be rolled back then.
        """
        if self.runs:
            _lock_owner(session, owner)
        yield
        if self.runs and (count := unfinished_runs_by_owner(session, owner).get(owner, 0)) > self.runs:
            raise Problem(
                403,
                "quota_exceeded",
                f"{owner} would have {count:,} unfinished runs, of {self.runs:,} that an owner may have "
                "(LCL_QUEUED_RUNS_PER_OWNER); wait until some are finished, or cancel some",
            )


def _lock_owner(session: Session, owner: str) -> None:
    """Serialise counts of one owner until the transaction ends. On SQLite write transactions are serial anyway."""
    if session.get_bind().dialect.name == "postgresql":
        digest = hashlib.sha256(f"lcl quota {owner}".encode()).digest()
        session.execute(select(func.pg_advisory_xact_lock(int.from_bytes(digest[:8], signed=True))))
