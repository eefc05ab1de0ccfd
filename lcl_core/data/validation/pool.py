"""Processes that examine chunks: a bounded number ahead, results in order, and a death that costs one record."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from multiprocessing.connection import wait
from types import TracebackType
from typing import Self

from lcl_core.data.record import BadItem
from lcl_core.data.validation.examine import Examiner
from lcl_core.data.validation.findings import WORKER_DIED
from lcl_core.data.validation.tally import Part
from lcl_core.data.validation.walk import Chunk, place_of
from lcl_core.errors import UserError

MAX_DEATHS = 50
Make = Callable[[], Examiner]
_examiner: Examiner | None = None


class Workers:
    """Examines chunks in ``number`` processes, started anew (never forked); 0: in this one.

    A process that dies (a decoder that crashes, no memory) takes nothing along but the record that it was at: the
    chunks in flight are examined again, and the one that kills is taken apart.

    Args:
        make: gives a process its examiner; it must be picklable.

    Raises, from ``examine``: UserError ``workers_died`` when that happens too often.
    """

    def __init__(self, number: int, make: Make) -> None:
        self.deaths = 0
        self._number = number
        self._make = make
        self._here = make() if number == 0 else None
        self._pool = self._start(number) if number else None

    def examine(self, chunks: Iterable[Chunk]) -> Iterator[Part]:
        """One part a chunk, in order."""
        if self._here is not None:
            yield from map(self._here.examine, chunks)
            return
        pending: deque[tuple[Chunk, Future[Part]]] = deque()
        for chunk in chunks:
            pending.append((chunk, self._submit(chunk)))
            if len(pending) > 2 * self._number:
                yield self._next(pending)
        while pending:
            yield self._next(pending)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _start(self, number: int) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(number, context, _prepare, (self._make,))

    def _submit(self, chunk: Chunk) -> Future[Part]:
        assert self._pool is not None
        try:
            return self._pool.submit(_examine, chunk)
        except BrokenExecutor as error:
            broken: Future[Part] = Future()
            broken.set_exception(error)
            return broken

    def _next(self, pending: deque[tuple[Chunk, Future[Part]]]) -> Part:
        chunk, future = pending.popleft()
        try:
            return future.result()
        except BrokenExecutor:
            part = self._alone(chunk)
            self._pool = self._start(self._number)
            for place, (other, _) in enumerate(pending):  # they were lost with the pool
                pending[place] = (other, self._submit(other))
            return part

    def _alone(self, chunk: Chunk) -> Part:
        """A chunk that was in flight when a process died, in a process of its own; record by record if that dies."""
        with self._start(1) as pool:
            try:
                return pool.submit(_examine, chunk).result()
            except BrokenExecutor as error:
                self.deaths += 1
                if self.deaths > MAX_DEATHS:
                    message = "the examining processes keep dying, for lack of memory perhaps; use fewer workers"
                    raise UserError(message, code="workers_died") from error
        if len(chunk) > 1:
            middle = len(chunk) // 2
            return _joined(self._alone(chunk[:middle]), self._alone(chunk[middle:]))
        with self._start(1) as pool:
            return pool.submit(_examine, [_died(chunk[0])]).result()


def _died(item: object) -> BadItem:
    file, line = place_of(getattr(item, "id", ""))
    return BadItem(file, line, WORKER_DIED, "the process that examined this record ended; try it by itself")


def _joined(first: Part, second: Part) -> Part:
    first.tally.merge(second.tally)
    first.items += second.items
    for name in ("findings", "images", "documents"):
        getattr(first, name).extend(getattr(second, name))
    return first


def _prepare(make: Make) -> None:
    """In a new process: its examiner, and an end when the parent's comes."""
    global _examiner
    _examiner = make()
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _examine(chunk: Chunk) -> Part:
    assert _examiner is not None, "the process was prepared"
    return _examiner.examine(chunk)
