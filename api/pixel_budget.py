"""The memory in which large images are decoded, shared by all requests of a process.

A request whose images are small decodes them in one of the few threads for it and asks for nothing here. One with a
large image waits in the event loop, holding no thread, until the memory that its largest image takes is free. So a
small image never waits for a large one. Owners take turns: who sends many large images waits behind himself.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from api.errors import Problem

MOST_WAITING = 256  # requests; each keeps its body in memory


@dataclass(eq=False, slots=True)
class _Waiter:
    amount: int
    granted: asyncio.Future[None]


class PixelBudget:
    """Bytes that are lent. Of one event loop; what it does between two awaits is done whole.

    Args:
        total: bytes; who asks for more gets all of it, alone.
        seconds: that a request waits, at most.
        most_waiting: requests that wait at one time.
    """

    def __init__(self, total: int, seconds: float, most_waiting: int = MOST_WAITING) -> None:
        self.total = total
        self._seconds, self._most_waiting = seconds, most_waiting
        self._free = total
        self._waiting: OrderedDict[str, deque[_Waiter]] = OrderedDict()  # by owner; the first one is next

    @property
    def held(self) -> int:
        """Bytes that are lent now."""
        return self.total - self._free

    @property
    def waiting(self) -> int:
        """Requests that wait now."""
        return sum(map(len, self._waiting.values()))

    @asynccontextmanager
    async def hold(self, owner: str, amount: int) -> AsyncIterator[None]:
        """Wait for ``amount`` bytes and hold them. Raises: Problem 503 ``overloaded``."""
        amount = min(amount, self.total)
        await self._acquire(owner, amount)
        try:
            yield
        finally:
            self._free += amount
            self._grant()

    async def _acquire(self, owner: str, amount: int) -> None:
        if self.waiting >= self._most_waiting:
            raise self._overloaded(f"{self.waiting} requests with large images are waiting")
        waiter = _Waiter(amount, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(owner, deque()).append(waiter)
        self._grant()
        try:
            async with asyncio.timeout(self._seconds):
                await waiter.granted
        except BaseException as error:
            self._leave(owner, waiter)
            if isinstance(error, TimeoutError):
                raise self._overloaded(f"no memory for large images was free for {self._seconds:g} s") from error
            raise

    def _grant(self) -> None:
        """Lend to one owner after the other. What does not fit yet is not overtaken: it would wait for ever."""
        while self._waiting:
            owner, queue = next(iter(self._waiting.items()))
            if queue[0].amount > self._free:
                return
            waiter = queue.popleft()
            self._waiting.move_to_end(owner)
            if not queue:
                del self._waiting[owner]
            self._free -= waiter.amount
            waiter.granted.set_result(None)

    def _leave(self, owner: str, waiter: _Waiter) -> None:
        """Give up waiting, or what was lent in the same moment."""
        if waiter.granted.done() and not waiter.granted.cancelled():
            self._free += waiter.amount
        else:
            queue = self._waiting[owner]
            queue.remove(waiter)
            if not queue:
                del self._waiting[owner]
        self._grant()

    def _overloaded(self, what: str) -> Problem:
        wait = max(1, math.ceil(min(self._seconds, 10)))
        message = f"{what}; send this one again in {wait} s, or send smaller images"
        return Problem(503, "overloaded", message, headers={"retry-after": str(wait)})
