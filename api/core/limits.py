"""Bounds on what requests hold at one time: body bytes, memory of decoded images, threads of long reads.

``BodyBudget`` bounds the bytes of request bodies per process and per key. ``PixelBudget`` lends the memory in which
large images are decoded; owners are served in turn. ``LongReadQueue`` runs reads of whole corpora and encoders, few at
a time per owner. All three belong to one event loop and need no lock.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Self, TypeVar

import anyio
from anyio import CapacityLimiter, to_thread

from api.core.errors import Problem

SMALL_BODY_BYTES = 64 * 1024
BODY_WAIT_SECONDS = 5.0  # for which a body waits for room
MAX_WAITING_REQUESTS = 256  # for the pixel budget; each keeps its body in memory
MAX_LONG_READS = 8  # over all owners; threads wait for slow disks
MAX_LONG_READS_PER_OWNER = 2
MAX_WAITING_READS_PER_OWNER = 32

Result = TypeVar("Result")


class BodyBudget:
    """Bytes reserved before they are read, and released with the response.

    One key reserves half of them at most, so that it cannot block the others. Small bodies are not counted, since the
    rate limiter bounds their number: large bodies of several keys never block the submission of a run.

    Args:
        total: bytes; the largest body must fit into half of them.
        patience: seconds to wait for room.
        small: bytes up to which a body is not counted.
    """

    def __init__(self, total: int, patience: float = BODY_WAIT_SECONDS, small: int = SMALL_BODY_BYTES) -> None:
        self._total = total
        self._small = small
        self._share = total // 2
        self._patience = patience
        self._in_use: Counter[str] = Counter()  # by key
        self._released: anyio.Event | None = None  # set while requests wait
        self.in_use = 0  # reserved bytes

    def reservation_for(self, key: str) -> BodyReservation:
        """An empty reservation for one request of ``key``."""
        return BodyReservation(self, key)

    async def _reserve(self, key: str, size: int) -> None:
        if not self._fits(key, size):
            await self._wait(key, size)
        self._in_use[key] += size
        self.in_use += size

    def _fits(self, key: str, size: int) -> bool:
        return self.in_use + size <= self._total and self._in_use[key] + size <= self._share

    async def _wait(self, key: str, size: int) -> None:
        with anyio.move_on_after(self._patience):
            while not self._fits(key, size):
                self._released = self._released or anyio.Event()
                await self._released.wait()
            return
        whose = "this key's requests" if self._in_use[key] + size > self._share else "requests"
        message = f"the service holds as many bytes of {whose} as it keeps at once; try again in a few seconds"
        raise Problem(503, "overloaded", message, headers={"retry-after": "2"})

    def _release(self, key: str, size: int) -> None:
        self._in_use[key] -= size
        self.in_use -= size
        if not self._in_use[key]:
            del self._in_use[key]
        if self._released is not None:
            self._released.set()
            self._released = None


class BodyReservation:
    """One request's part of the budget, released at the end of the ``with`` block."""

    def __init__(self, budget: BodyBudget, key: str) -> None:
        self._budget = budget
        self._key = key
        self._size = 0

    async def grow_to(self, size: int) -> None:
        """Reserve at least ``size`` bytes. Raises: Problem 503 ``overloaded`` when there is no room in time."""
        if size > max(self._size, self._budget._small):
            await self._budget._reserve(self._key, size - self._size)
            self._size = size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._size:
            self._budget._release(self._key, self._size)


@dataclass(eq=False, slots=True)
class _Waiter:
    amount: int
    granted: asyncio.Future[None]


class PixelBudget:
    """Memory for decoding large images. Owners are served in turn, so that one owner's requests wait for each other.

    A request with small images only does not use it, and never waits. A waiting request keeps no thread.

    Args:
        total: bytes; a larger amount is granted as all of it.
        seconds: longest wait of a request.
        most_waiting: requests that wait at one time.
    """

    def __init__(self, total: int, seconds: float, most_waiting: int = MAX_WAITING_REQUESTS) -> None:
        self.total = total
        self._seconds, self._most_waiting = seconds, most_waiting
        self._free = total
        self._waiting: OrderedDict[str, deque[_Waiter]] = OrderedDict()  # by owner, in turn

    @property
    def in_use(self) -> int:
        """Reserved bytes."""
        return self.total - self._free

    @property
    def waiting(self) -> int:
        """Waiting requests."""
        return sum(map(len, self._waiting.values()))

    @asynccontextmanager
    async def reserve(self, owner: str, amount: int) -> AsyncIterator[None]:
        """Wait for ``amount`` bytes and reserve them for the block. Raises: Problem 503 ``overloaded``."""
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
            self._cancel(owner, waiter)
            if isinstance(error, TimeoutError):
                raise self._overloaded(f"no memory for large images was free for {self._seconds:g} s") from error
            raise

    def _grant(self) -> None:
        """Grant to one owner after another. An amount that does not fit yet is not overtaken, else it might starve."""
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

    def _cancel(self, owner: str, waiter: _Waiter) -> None:
        """Stop waiting, or release an amount granted at the same moment."""
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


@dataclass
class _OwnerReads:
    limiter: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(MAX_LONG_READS_PER_OWNER))
    pending: int = 0  # waiting and running


class LongReadQueue:
    """Reads of whole corpora and encoders, in order of arrival."""

    def __init__(self) -> None:
        self._threads = CapacityLimiter(MAX_LONG_READS)
        self._owners: dict[str, _OwnerReads] = {}

    async def run(self, owner: str, read: Callable[..., Result], *arguments: object) -> Result:
        """``read(*arguments)`` in a thread. The caller must not hold a transaction meanwhile.

        Raises: Problem 429 ``too_many_requests`` when too many reads of this owner wait; errors of ``read``.
        """
        own = self._owners.setdefault(owner, _OwnerReads())
        if own.pending >= MAX_LONG_READS_PER_OWNER + MAX_WAITING_READS_PER_OWNER:
            message = f"{own.pending} requests of {owner}'s that read files are under way; try again when some are done"
            raise Problem(429, "too_many_requests", message, headers={"retry-after": "5"})
        own.pending += 1
        try:
            async with own.limiter:
                return await to_thread.run_sync(partial(read, *arguments), limiter=self._threads)
        finally:
            own.pending -= 1
            if not own.pending:
                del self._owners[owner]
