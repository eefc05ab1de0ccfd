"""Dynamic batching: one owner thread runs the requests of many clients. Imports no torch.

Requests with equal keys may share a batch. A batch starts when the thread is free; while one runs the next one fills.
Long work (generation) runs in steps: between two steps one batch of other keys runs, and several long batches advance
side by side.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from lcl_core.common.errors import Busy, UserError, as_exception

log = logging.getLogger(__name__)


def failed_future(error: Exception) -> Future[Any]:
    """A future that has failed already."""
    future: Future[Any] = Future()
    future.set_exception(error)
    return future


def wait_all(futures: Sequence[Future[Any]]) -> list[Any]:
    """All results in order; the first failure cancels what still waits and is raised."""
    try:
        return [future.result() for future in futures]
    finally:
        for future in futures:
            future.cancel()


async def gather_results(futures: Sequence[Future[Any]]) -> list[Any]:
    """As ``wait_all``, without blocking the event loop; cancelling the caller cancels what still waits."""
    try:
        return list(await asyncio.gather(*(asyncio.wrap_future(future) for future in futures)))
    finally:
        for future in futures:
            future.cancel()


Steps = Iterator[Iterable[tuple[int, Any]]]


@dataclass(slots=True)
class QueuedItem:
    """One item, and where its result goes."""

    item: Any
    cost: int = 0  # bytes while it is worked on in steps
    future: Future[Any] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)


@dataclass(slots=True, eq=False)
class _SteppedBatch:
    key: Hashable
    batch: list[QueuedItem]
    steps: Steps
    started: float = field(default_factory=time.monotonic)

    @property
    def unsettled(self) -> list[QueuedItem]:
        return [request for request in self.batch if not request.future.done()]


class StepwiseScheduler:
    """Advances batches in steps, one step of each a round. Used by one thread.

    Args:
        run: ``run(key, items)`` → an iterator; each step gives the items that it completed, as (number in ``items``,
            result). A batch that fails fails as a whole: listeners may have received the beginning.
        record: called with the key, the requests and the start time when a batch is over.
    """

    def __init__(
        self, run: Callable[[Any, list[Any]], Any], record: Callable[[Any, list[QueuedItem], float], None]
    ) -> None:
        self._run, self._record = run, record
        self._batches: list[_SteppedBatch] = []

    def __bool__(self) -> bool:
        return bool(self._batches)

    def __len__(self) -> int:
        """Items of all batches."""
        return sum(len(work.batch) for work in self._batches)

    @property
    def cost(self) -> int:
        """Of the items of all batches."""
        return sum(request.cost for work in self._batches for request in work.batch)

    def begin(self, key: Hashable, batch: Sequence[QueuedItem]) -> None:
        self._batches.append(_SteppedBatch(key, list(batch), self._steps(key, batch)))

    def advance(self) -> None:
        """One step of each batch."""
        for work in list(self._batches):
            self._step(work)

    def drop(self, error: Exception) -> None:
        """End all batches; items without a result fail with ``error``."""
        for work in list(self._batches):
            self._end(work, error)

    def _steps(self, key: Hashable, batch: Sequence[QueuedItem]) -> Steps:
        # here, so that an error of ``run`` itself is raised by the first step
        yield from self._run(key, [request.item for request in batch])

    def _step(self, work: _SteppedBatch) -> None:
        try:
            for place, result in next(work.steps):
                work.batch[place].future.set_result(result)
            for request in work.batch:
                request.item = None  # its pixels, which nothing reads again
        except StopIteration:
            self._end(work, RuntimeError(f"{len(work.unsettled)} items were left without a result"))
        except BaseException as caught:  # a panic in Rust is no Exception, and the thread must outlive it
            self._end(work, as_exception(caught))
        else:
            if not work.unsettled:
                self._end(work)

    def _end(self, work: _SteppedBatch, error: Exception | None = None) -> None:
        self._batches.remove(work)
        for request in work.unsettled:
            request.future.set_exception(error or RuntimeError("no result"))
        self._record(work.key, work.batch, work.started)


RunBatch = Callable[[Any, list[Any]], Iterable[Any]]
BatchObserver = Callable[[Any, list[float]], None]


class Overloaded(UserError):
    """The queue is full. ``retry_after`` is the time in seconds after which it should have room."""

    status, code = 429, "busy"

    def __init__(self, waiting: int, retry_after: float) -> None:
        super().__init__(f"{waiting} requests are waiting; send this one again in {retry_after:.0f} s")
        self.retry_after = retry_after


class EncoderUnloaded(Busy):
    """The encoder was closed before the request ran."""

    def __init__(self) -> None:
        super().__init__("the encoder was unloaded; send the request again")


class DynamicBatcher:
    """Owns one thread and a bounded queue.

    Args:
        run: ``run(key, items) -> results``, row-aligned; called in the owner thread only. If it raises for
            several items, they are tried again in halves, so that a bad one fails alone.
        in_steps: keys for which ``run`` returns an iterator instead, as of StepwiseScheduler.
        name: shown in the thread's name.
        max_batch: items a call of ``run``, and items of all stepwise batches together.
        max_cost: of the items of all stepwise batches together; one that costs more is worked on alone.
        max_queue: requests that may wait.
        observe: called after each batch with its key and the seconds from arrival to answer of each request.
    """

    def __init__(
        self,
        run: RunBatch,
        *,
        in_steps: Callable[[Any], bool] = lambda key: False,
        name: str = "encoder",
        max_batch: int = 64,
        max_cost: int = 1 << 62,
        max_queue: int = 512,
        observe: BatchObserver | None = None,
    ) -> None:
        self._run = run
        self._in_steps = in_steps
        self._observe = observe
        self.max_batch, self.max_cost, self.max_queue = max_batch, max_cost, max_queue
        self._queues: dict[Hashable, deque[QueuedItem]] = {}
        self._changed = threading.Condition()
        self._waiting = 0
        self._stepwise = StepwiseScheduler(run, self._record)  # used by the owner thread alone
        self._closing = self._dropping = False
        self._seconds_per_item = 0.0
        self._thread = threading.Thread(target=self._own, name=f"lcl-{name}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests in the queue now."""
        return self._waiting

    def check_room(self, count: int = 1) -> None:
        """Raise what ``submit`` would raise, before costly preparation.

        Raises:
            EncoderUnloaded: after ``close``.
            Overloaded: the queue has no room for ``count`` more.
            UserError: ``too_many_items``: it never will have.
        """
        with self._changed:
            self._check_room(count)

    def submit(self, key: Hashable, items: Sequence[Any], cost: int = 0) -> list[Future[Any]]:
        """Queue all items or none; one future each. Cancelling a future takes its item out of the queue.

        Args:
            cost: bytes that each takes while it is worked on in steps.

        Raises: as ``check_room``.
        """
        requests = [QueuedItem(item, cost) for item in items]
        with self._changed:
            self._check_room(len(requests))
            if requests:
                self._queues.setdefault(key, deque()).extend(requests)
                self._waiting += len(requests)
                self._changed.notify()
        return [request.future for request in requests]

    def close(self, *, drain: bool = True, wait: bool = True) -> None:
        """Accept no more requests; ``drain``: finish those that wait, else they fail with EncoderUnloaded.

        ``wait``: return when the owner thread has ended. May be called again.
        """
        with self._changed:
            self._closing = True
            self._dropping = self._dropping or not drain
            dropped = [] if drain else self._pop_all()
            self._changed.notify_all()
        _fail_all(dropped)
        if wait and threading.current_thread() is not self._thread:
            self._thread.join()

    def _check_room(self, count: int) -> None:
        if self._closing:
            raise EncoderUnloaded
        if count > self.max_queue:
            message = f"{count} items in one request; at most {self.max_queue} fit, send them in parts"
            raise UserError(message, code="too_many_items")
        if self._waiting + count > self.max_queue:
            for key, queue in list(self._queues.items()):
                kept = deque(request for request in queue if not request.future.cancelled())
                self._waiting -= len(queue) - len(kept)
                self._replace(key, kept)
        if self._waiting + count > self.max_queue:
            raise Overloaded(self._waiting, max(1.0, math.ceil(self._waiting * self._seconds_per_item)))

    def _replace(self, key: Hashable, queue: deque[QueuedItem]) -> None:
        if queue:
            self._queues[key] = queue
        else:
            del self._queues[key]

    def _pop_all(self) -> list[QueuedItem]:
        requests = [request for queue in self._queues.values() for request in queue]
        self._queues.clear()
        self._waiting = 0
        return requests

    def _own(self) -> None:
        try:
            while (batch := self._next_batch()) is not None or self._stepwise:
                if batch is not None:
                    self._run_batch(*batch)
                del batch  # or the last batch's pixels would stay until the next one comes
                if self._dropping:
                    self._stepwise.drop(EncoderUnloaded())
                self._stepwise.advance()
        finally:
            with self._changed:
                self._closing = True
                waiting = self._pop_all()
            _fail_all(waiting)
            self._stepwise.drop(EncoderUnloaded())

    def _next_batch(self) -> tuple[Hashable, list[QueuedItem]] | None:
        """Wait for the next batch, unless stepwise batches are active; None: there is none, or closed and empty."""
        with self._changed:
            while True:
                if ready := self._ready_keys():
                    key = min(ready, key=lambda key: self._queues[key][0].arrived)
                    return key, self._pop(key, self._queues[key])
                if self._closing or self._stepwise:
                    return None
                self._changed.wait()

    def _ready_keys(self) -> list[Hashable]:
        """Keys of which a batch may start. Of stepwise ones the oldest alone, else costly items might starve."""
        ready = [key for key in self._queues if not self._in_steps(key)]
        stepwise = [key for key in self._queues if self._in_steps(key)]
        if stepwise:
            oldest = min(stepwise, key=lambda key: self._queues[key][0].arrived)
            if self._may_begin(self._queues[oldest][0], len(self._stepwise), self._stepwise.cost):
                ready.append(oldest)
        return ready

    def _may_begin(self, request: QueuedItem, others: int, cost: int) -> bool:
        """Whether a stepwise item may begin beside so many others of that cost."""
        return not others or (others < self.max_batch and cost + request.cost <= self.max_cost)

    def _pop(self, key: Hashable, queue: deque[QueuedItem]) -> list[QueuedItem]:
        batch: list[QueuedItem] = []
        others, cost = (len(self._stepwise), self._stepwise.cost) if self._in_steps(key) else (0, 0)
        while queue and len(batch) < self.max_batch:
            spent = cost + sum(request.cost for request in batch)
            if self._in_steps(key) and not self._may_begin(queue[0], others + len(batch), spent):
                break
            request = queue.popleft()
            self._waiting -= 1
            if request.future.set_running_or_notify_cancel():
                batch.append(request)
        self._replace(key, queue)
        return batch

    def _run_batch(self, key: Hashable, batch: list[QueuedItem]) -> None:
        if not batch:
            return
        if self._in_steps(key):
            self._stepwise.begin(key, batch)
            return
        started = time.monotonic()
        try:
            self._settle(key, batch)
        finally:  # also if the thread itself is ending, no caller waits for ever
            _fail_all([request for request in batch if not request.future.done()])
        self._record(key, batch, started)

    def _record(self, key: Hashable, batch: list[QueuedItem], started: float) -> None:
        ended = time.monotonic()
        if self._observe is not None:
            self._observe(key, [ended - request.arrived for request in batch])
        spent = (ended - started) / len(batch)
        self._seconds_per_item = 0.8 * self._seconds_per_item + 0.2 * spent

    def _settle(self, key: Hashable, batch: list[QueuedItem]) -> None:
        """Run the batch; on failure halve it until a bad item is alone."""
        try:
            results = list(self._run(key, [request.item for request in batch]))
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results for {len(batch)} items")
        except BaseException as caught:  # a panic in Rust is no Exception, and the thread must outlive it
            error = as_exception(caught)
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                return
            log.info("a batch of %d failed (%s); its halves are tried alone", len(batch), error)
            middle = len(batch) // 2
            self._settle(key, batch[:middle])
            self._settle(key, batch[middle:])
            return
        for request, result in zip(batch, results, strict=True):
            request.future.set_result(result)


def _fail_all(requests: list[QueuedItem]) -> None:
    for request in requests:
        if request.future.running() or request.future.set_running_or_notify_cancel():
            request.future.set_exception(EncoderUnloaded())
