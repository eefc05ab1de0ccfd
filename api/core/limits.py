"""Bounds on what requests hold at one time, and on what an owner stores.

``BodyBudget`` bounds the bytes of request bodies per process and per key. ``PixelBudget`` lends the memory in which
large images are decoded, and prepared images wait for the model; owners are served in turn. Both belong to one event
loop and need no lock.

``RateLimiter`` bounds requests per minute and at once of one key, and event streams of one owner. A slot is kept
from a request's authentication, before its body is read, to the end of its answer, by a stream while it is open.
Streams together hold at most half of a key's slots, so that open streams never block ordinary calls. Each process of
the service counts for itself, and with ``api.core.shared_limits`` what the other processes report.

``Quotas`` bounds unfinished runs and stored bytes of one owner, inside the transaction that writes. Far below a limit a
check costs nothing: after counting, a process admits a quarter of the remaining room before it counts again, so that
several processes together do not overrun the limit.

``SharedCall`` makes one costly call for all who ask within a short time.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Self, TypeVar

import anyio
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.core.auth import Principal
from api.core.errors import Problem
from lcl_core.db import quotas

SMALL_BODY_BYTES = 64 * 1024
BODY_WAIT_SECONDS = 5.0  # for which a body waits for room
MAX_WAITING_REQUESTS = 256  # for the pixel budget; each keeps its body in memory

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
    """Memory for decoding large images and for many prepared ones. Owners are served in turn, so that one owner's
    requests wait for each other.

    A request with few small images only does not use it, and never waits. A waiting request keeps no thread.

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
    async def reserve(self, owner: str, amount: int) -> AsyncIterator[PixelReservation]:
        """Wait for ``amount`` bytes and reserve them for the block. Raises: Problem 503 ``overloaded``."""
        amount = min(amount, self.total)
        await self._acquire(owner, amount)
        reservation = PixelReservation(self, amount)
        try:
            yield reservation
        finally:
            self._release(reservation.amount)

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

    def _release(self, amount: int) -> None:
        self._free += amount
        self._grant()

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


@dataclass(eq=False, slots=True)
class PixelReservation:
    """One request's part of the budget. ``amount``: bytes that are released at the end of the block."""

    _budget: PixelBudget
    amount: int

    def keep(self, amount: int, futures: Sequence[Future[Any]]) -> None:
        """Release ``amount`` bytes not at the end of the block, but once all futures are done."""
        amount = min(amount, self.amount)
        loop, lock, missing = asyncio.get_running_loop(), threading.Lock(), len(futures)
        if not missing:
            return
        self.amount -= amount

        def count(_: Future[Any]) -> None:
            """In the thread that ends a future."""
            nonlocal missing
            with lock:
                missing -= 1
                if missing:
                    return
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._budget._release, amount)

        for future in futures:
            future.add_done_callback(count)


class Usage(NamedTuple):
    """What a process reports of one key."""

    owner: str
    requests: int  # since the start of the process
    slots: int  # streams included
    streams: int


UsageReport = Mapping[str, Usage]  # by key


@dataclass
class _KeyState:
    """Of one key: remaining requests of its minute, its requests so far, and its slots, streams included."""

    owner: str
    left: float
    seen: float
    requests: int = 0
    slots: int = 0
    streams: int = 0
    slots_elsewhere: int = 0
    streams_elsewhere: int = 0


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
        self._usage: dict[str, _KeyState] = {}
        self._streams: Counter[str] = Counter()  # by owner
        self._streams_elsewhere: Counter[str] = Counter()
        self._reports: Mapping[str, UsageReport] = {}  # the last ones, by process
        self._lock = threading.Lock()

    def acquire(self, caller: Principal) -> RequestSlot:
        """Take a slot for a request. Raises: Problem 429 ``too_many_requests``."""
        with self._lock:
            usage, rate = self._refill(caller.prefix, caller.owner), self._per_minute / 60
            if usage.left < 1:
                raise _rate_limit_error(f"more than {self._per_minute} requests in a minute", (1 - usage.left) / rate)
            if usage.slots + usage.slots_elsewhere >= self._at_once:
                raise _rate_limit_error(f"{self._at_once} requests of this key are under way", 1)
            usage.left -= 1
            usage.requests += 1
            usage.slots += 1
        return RequestSlot(self, caller)

    def in_use(self) -> dict[str, int]:
        """Acquired slots over all keys."""
        with self._lock:
            usages = list(self._usage.values())
        streams = sum(usage.streams for usage in usages)
        return {"request": sum(usage.slots for usage in usages) - streams, "stream": streams}

    def report(self) -> dict[str, Usage]:
        """Usage of each key in this process, for the others."""
        with self._lock:
            return {
                key: Usage(state.owner, state.requests, state.slots, state.streams)
                for key, state in self._usage.items()
                if state.requests
            }

    def include(self, reports: Mapping[str, UsageReport]) -> None:
        """Count the present reports of other processes, by process; what is in none of them counts no more.

        Requests since the last report of a process are taken from the minute of their key.
        """
        with self._lock:
            for state in self._usage.values():
                state.slots_elsewhere = state.streams_elsewhere = 0
            self._streams_elsewhere.clear()
            for process, report in reports.items():
                before = self._reports.get(process)
                for key, usage in report.items():
                    state = self._refill(key, usage.owner)
                    state.slots_elsewhere += usage.slots
                    state.streams_elsewhere += usage.streams
                    self._streams_elsewhere[usage.owner] += usage.streams
                    if before is not None:  # when its earlier requests were is not known
                        new = usage.requests - (before[key].requests if key in before else 0)
                        state.left = max(-self._per_minute, state.left - new)
            self._reports = reports

    def _refill(self, key: str, owner: str) -> _KeyState:
        """State of a key at this moment. The caller has the lock."""
        now = self._clock()
        state = self._usage.setdefault(key, _KeyState(owner, self._per_minute, now))
        state.left = min(self._per_minute, state.left + (now - state.seen) * self._per_minute / 60)
        state.seen = now
        return state

    def _make_stream(self, slot: RequestSlot) -> None:
        with self._lock:
            usage, owner = self._usage[slot.principal.prefix], slot.principal.owner
            of_key, of_owner = usage.streams + usage.streams_elsewhere, self._streams[owner]
            of_owner += self._streams_elsewhere[owner]
            if of_key >= max(1, self._at_once // 2):
                raise _rate_limit_error(f"{of_key} streams of this key are open; close some", 1)
            if of_owner >= self._streams_at_once:
                raise _rate_limit_error(f"{of_owner} streams of {owner}'s keys are open; close some", 1)
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
                "(LCL_BYTES_PER_OWNER); delete runs, datasets, encoders, collections or uploads that are not needed, "
                "or have an admin raise LCL_BYTES_PER_OWNER (0: no limit)"
            )
        with self._lock:
            if len(self._bytes) >= _MAX_CACHED_OWNERS:
                self._bytes.clear()
            self._bytes[owner] = self._clock() + COUNT_VALID_SECONDS

    def charge_folder(self, session: Session, owner: str, path: str, size: int) -> None:
        """Charge a folder of the home to its owner, in place of what it was charged with before.

        Raises: Problem 403 ``quota_exceeded``; the transaction must be rolled back then.
        """
        _lock_owner(session, owner)
        quotas.delete_bytes(session, path)
        self.check_bytes(session, owner, size)
        quotas.record_bytes(session, path, owner, size)

    def check_addition(self, session: Session, owner: str, size: int) -> None:
        """Whether ``owner`` may add so many bytes to a collection, in this transaction.

        Raises: Problem 403 ``quota_exceeded``.
        """
        _lock_owner(session, owner)
        self.check_bytes(session, owner, size)

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


class SharedCall(Generic[Result]):
    """Makes one call at a time, whose result all threads get that ask meanwhile or soon after.

    Args:
        seconds: for which a result is kept, from the end of its call. An exception is not kept.
        clock: monotonic seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._lock = threading.Lock()
        self._results: list[Result] = []  # at most one
        self._valid_until = 0.0

    def get(self, call: Callable[[], Result]) -> Result:
        """The kept result, or that of ``call``. Blocks while another thread makes the call. Raises: as ``call``."""
        with self._lock:
            if not self._results or self._clock() >= self._valid_until:
                self._results = [call()]
                self._valid_until = self._clock() + self._seconds
            return self._results[0]
