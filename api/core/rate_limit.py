"""Rate limiter: requests per minute and requests at once of one key, event streams of one owner.

A request holds a slot from its authentication, before its body is read, to the end of its answer. An event stream holds
one for as long as it is open. Streams together hold at most half of a key's slots, so that open streams never block
ordinary calls. Each process of the service counts for itself.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from api.core.auth import Principal
from api.core.errors import Problem


@dataclass
class _Usage:
    """Of one key: remaining requests of its minute, and its slots, streams included."""

    left: float
    seen: float
    slots: int = 0
    streams: int = 0


class RequestSlot:
    """One running request, released at the end of the ``with`` block."""

    def __init__(self, limiter: RateLimiter, principal: Principal) -> None:
        self._limiter = limiter
        self.principal = principal
        self.stream = False

    def become_stream(self) -> None:
        """Count as a stream from now on. Raises: Problem 429 ``too_many_requests``; then nothing changes."""
        self._limiter._make_stream(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._limiter._release(self)


class RateLimiter:
    """Token bucket and concurrency limit per key. Thread-safe. Only valid keys use its memory.

    Args:
        per_minute: requests of a key; also the size of its bucket.
        at_once: running requests of a key.
        streams_at_once: open streams of one owner, over all keys.
        clock: monotonic seconds.
    """

    def __init__(
        self, per_minute: int, at_once: int, streams_at_once: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_minute = per_minute
        self._at_once = at_once
        self._streams_at_once = streams_at_once
        self._clock = clock
        self._usage: dict[str, _Usage] = {}
        self._streams: Counter[str] = Counter()  # by owner
        self._lock = threading.Lock()

    def acquire(self, caller: Principal) -> RequestSlot:
        """Take a slot for a request. Raises: Problem 429 ``too_many_requests``."""
        with self._lock:
            now = self._clock()
            usage = self._usage.setdefault(caller.prefix, _Usage(self._per_minute, now))
            rate = self._per_minute / 60
            usage.left = min(self._per_minute, usage.left + (now - usage.seen) * rate)
            usage.seen = now
            if usage.left < 1:
                raise _rate_limit_error(f"more than {self._per_minute} requests in a minute", (1 - usage.left) / rate)
            if usage.slots >= self._at_once:
                raise _rate_limit_error(f"{self._at_once} requests of this key are under way", 1)
            usage.left -= 1
            usage.slots += 1
        return RequestSlot(self, caller)

    def in_use(self) -> dict[str, int]:
        """Acquired slots over all keys."""
        with self._lock:
            usages = list(self._usage.values())
        streams = sum(usage.streams for usage in usages)
        return {"request": sum(usage.slots for usage in usages) - streams, "stream": streams}

    def _make_stream(self, slot: RequestSlot) -> None:
        with self._lock:
            usage, owner = self._usage[slot.principal.prefix], slot.principal.owner
            if usage.streams >= max(1, self._at_once // 2):
                raise _rate_limit_error(f"{usage.streams} streams of this key are open; close some", 1)
            if self._streams[owner] >= self._streams_at_once:
                raise _rate_limit_error(f"{self._streams[owner]} streams of {owner}'s keys are open; close some", 1)
            usage.streams += 1
            self._streams[owner] += 1
            slot.stream = True

    def _release(self, slot: RequestSlot) -> None:
        with self._lock:
            usage, owner = self._usage[slot.principal.prefix], slot.principal.owner
            usage.slots -= 1
            if slot.stream:
                usage.streams -= 1
                self._streams[owner] -= 1
                if not self._streams[owner]:
                    del self._streams[owner]


def _rate_limit_error(what: str, seconds: float) -> Problem:
    whole = max(1, -int(-seconds // 1))
    message = f"{what}; try again in {whole} s"
    return Problem(429, "too_many_requests", message, headers={"retry-after": str(whole)})
