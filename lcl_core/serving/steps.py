"""Long work, a step at a time, so that others have their turn in between. Knows no torch."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from lcl_core.panics import failure

log = logging.getLogger(__name__)

Steps = Iterator[Iterable[tuple[int, Any]]]


@dataclass(slots=True)
class Request:
    """One item, and where its result goes."""

    item: Any
    future: Future[Any] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)


@dataclass(slots=True, eq=False)
class _Work:
    key: Hashable
    batch: list[Request]
    steps: Steps
    started: float = field(default_factory=time.monotonic)
    has_stepped: bool = False

    @property
    def unsettled(self) -> list[Request]:
        return [request for request in self.batch if not request.future.done()]


class UnderWay:
    """Batches that are done in steps, each one step a round. Of one thread alone.

    Args:
        run: ``run(key, items)`` → an iterator; each step tells which items are ready, as (number in ``items``, result).
            What fails in its first step is tried again in halves, so that a bad item fails alone; later on a reader
            may have been told of the beginning.
        tell: called with the key, the requests and the time of the start when a batch is over.
    """

    def __init__(self, run: Callable[[Any, list[Any]], Any], tell: Callable[[Any, list[Request], float], None]) -> None:
        self._run, self._tell = run, tell
        self._works: list[_Work] = []

    def __bool__(self) -> bool:
        return bool(self._works)

    def __len__(self) -> int:
        """Items under way."""
        return sum(len(work.batch) for work in self._works)

    def begin(self, key: Hashable, batch: Sequence[Request]) -> None:
        self._works.append(_Work(key, list(batch), self._steps(key, [request.item for request in batch])))

    def advance(self) -> None:
        """One step of each batch."""
        for work in list(self._works):
            self._step(work)

    def drop(self, error: Exception) -> None:
        """End all of it; what has no result yet gets ``error``."""
        for work in list(self._works):
            self._end(work, error)

    def _steps(self, key: Hashable, items: list[Any]) -> Steps:
        yield from self._run(key, items)  # in here, so that what ``run`` itself raises is raised by the first step

    def _step(self, work: _Work) -> None:
        try:
            for place, result in next(work.steps):
                work.batch[place].future.set_result(result)
            work.has_stepped = True
        except StopIteration:
            self._end(work, RuntimeError(f"{len(work.unsettled)} items were left without a result"))
        except BaseException as caught:  # a panic in Rust is no Exception, and the thread must outlive it
            error = failure(caught)
            if work.has_stepped or len(work.batch) == 1:
                self._end(work, error)
            else:
                self._halve(work, error)
        else:
            if not work.unsettled:
                self._end(work)

    def _halve(self, work: _Work, error: Exception) -> None:
        log.info("a batch of %d failed (%s); its halves are tried alone", len(work.batch), error)
        self._works.remove(work)
        middle = len(work.batch) // 2
        for half in (work.batch[:middle], work.batch[middle:]):
            self.begin(work.key, half)

    def _end(self, work: _Work, error: Exception | None = None) -> None:
        self._works.remove(work)
        for request in work.unsettled:
            request.future.set_exception(error or RuntimeError("no result"))
        self._tell(work.key, work.batch, work.started)
