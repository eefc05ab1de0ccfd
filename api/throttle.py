"""How much one key may ask: so many requests a minute, and so many at once.

A request holds a place from its authentication to the end of its answer. A stream of events holds one for as long as
it is open, which the settings bound, and streams together at most half of a key's places: whoever leaves streams open
can still make ordinary calls. Each process of the service counts for itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from api.errors import Problem


@dataclass
class _Usage:
    """Of one key: what is left of its minute, and who holds places (True: streams)."""

    left: float
    seen: float
    places: dict[bool, int] = field(default_factory=lambda: {False: 0, True: 0})


class Throttle:
    """Thread-safe. Knows valid keys alone, so strangers cannot fill its memory.

    Args:
        per_minute: requests that a key may make, all of them in one moment if it likes.
        at_once: requests of a key that may be under way.
        clock: seconds that only grow.
    """

    def __init__(self, per_minute: int, at_once: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._at_once = at_once
        self._clock = clock
        self._usage: dict[str, _Usage] = {}
        self._lock = threading.Lock()

    @contextmanager
    def place(self, key: str, *, stream: bool = False) -> Iterator[None]:
        """Hold a place for a request of ``key``. Raises: Problem 429 ``too_many_requests``."""
        usage = self._enter(key, stream)
        try:
            yield
        finally:
            with self._lock:
                usage.places[stream] -= 1

    def held(self) -> dict[str, int]:
        """How many places are taken now, over all keys."""
        with self._lock:
            each = [usage.places for usage in self._usage.values()]
        return {"request": sum(places[False] for places in each), "stream": sum(places[True] for places in each)}

    def _enter(self, key: str, stream: bool) -> _Usage:
        with self._lock:
            now = self._clock()
            usage = self._usage.setdefault(key, _Usage(self._per_minute, now))
            rate = self._per_minute / 60
            usage.left = min(self._per_minute, usage.left + (now - usage.seen) * rate)
            usage.seen = now
            if usage.left < 1:
                raise _refused(f"more than {self._per_minute} requests in a minute", (1 - usage.left) / rate)
            if sum(usage.places.values()) >= self._at_once:
                raise _refused(f"{self._at_once} requests of this key are under way", 1)
            if stream and usage.places[True] >= max(1, self._at_once // 2):
                raise _refused(f"{usage.places[True]} streams of this key are open; close some", 1)
            usage.left -= 1
            usage.places[stream] += 1
            return usage


def _refused(what: str, seconds: float) -> Problem:
    whole = max(1, -int(-seconds // 1))
    message = f"{what}; try again in {whole} s"
    return Problem(429, "too_many_requests", message, headers={"retry-after": str(whole)})
