"""How many bytes of request bodies one process keeps at a time, over all requests and of each key."""

from __future__ import annotations

from collections import Counter
from typing import Self

import anyio

from api.errors import Problem

SMALL_BODY = 64 * 1024
PATIENCE_SECONDS = 5.0  # for which a body waits until others have been answered, before it is refused


class BodyBudget:
    """Bytes that are reserved before they are read and released when their request has been answered.

    A key holds half of them at most, so that one key cannot keep the others from being read. Small bodies are not
    counted, since the throttle bounds how many of a key there are: large ones of several keys do not keep anybody from
    submitting a run. Used by the event loop alone, so it needs no lock.

    Args:
        total: bytes; the largest body must fit into half of them.
        patience: seconds to wait for room.
        small: bytes up to which a body is not counted.
    """

    def __init__(self, total: int, patience: float = PATIENCE_SECONDS, small: int = SMALL_BODY) -> None:
        self._total = total
        self._small = small
        self._share = total // 2
        self._patience = patience
        self._held: Counter[str] = Counter()  # by key
        self._released: anyio.Event | None = None  # there while somebody waits
        self.held = 0  # bytes that are reserved now

    def of(self, key: str) -> Reservation:
        """An empty reservation for one request of ``key``."""
        return Reservation(self, key)

    async def _reserve(self, key: str, size: int) -> None:
        if not self._fits(key, size):
            await self._wait(key, size)
        self._held[key] += size
        self.held += size

    def _fits(self, key: str, size: int) -> bool:
        return self.held + size <= self._total and self._held[key] + size <= self._share

    async def _wait(self, key: str, size: int) -> None:
        with anyio.move_on_after(self._patience):
            while not self._fits(key, size):
                self._released = self._released or anyio.Event()
                await self._released.wait()
            return
        whose = "this key's requests" if self._held[key] + size > self._share else "requests"
        message = f"the service holds as many bytes of {whose} as it keeps at once; try again in a few seconds"
        raise Problem(503, "overloaded", message, headers={"retry-after": "2"})

    def _release(self, key: str, size: int) -> None:
        self._held[key] -= size
        self.held -= size
        if not self._held[key]:
            del self._held[key]
        if self._released is not None:
            self._released.set()
            self._released = None


class Reservation:
    """What one request holds of the budget. Given back at the end of the ``with`` block."""

    def __init__(self, budget: BodyBudget, key: str) -> None:
        self._budget = budget
        self._key = key
        self._size = 0

    async def grow_to(self, size: int) -> None:
        """Hold ``size`` bytes at least. Raises: Problem 503 ``overloaded`` when there is no room for seconds."""
        if size > max(self._size, self._budget._small):
            await self._budget._reserve(self._key, size - self._size)
            self._size = size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._size:
            self._budget._release(self._key, self._size)
