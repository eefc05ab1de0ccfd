"""Generated texts of a request, awaited or streamed: who disconnects, or whose deadline passes, cancels them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from api.core.errors import Problem, error_detail
from lcl_core.encoders.captioning import StreamListener
from lcl_core.serving.dynamic_batcher import gather_results

Event = dict[str, Any]


class TextConsumers:
    """Consumers of ``count`` texts in an event loop. Made in that loop.

    Args:
        seconds: deadline from now.
        stream: ``events`` will be read.
        field: name of the request's items, if there may be several: an item's error names it.
    """

    def __init__(self, count: int, seconds: float, *, stream: bool, field: str | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._received: asyncio.Queue[tuple[int, str | Future[Any]]] = asyncio.Queue()
        self._seconds, self._end, self._field = seconds, time.monotonic() + seconds, field
        self.listeners = [
            StreamListener(partial(self._receive, index)) if stream else StreamListener() for index in range(count)
        ]

    async def wait_all(self, texts: Sequence[Future[Any]]) -> list[str]:
        """All texts. Raises: the first failed item's error; Problem 504."""
        try:
            return await asyncio.wait_for(gather_results(texts), self._seconds_left)
        except TimeoutError as error:
            raise self._deadline_problem() from error
        finally:
            self._cancel(texts)

    async def events(
        self, texts: Sequence[Future[Any]], done: Callable[[int, str], dict[str, Any]]
    ) -> AsyncIterator[Event]:
        """``piece`` events and, for each text, ``done`` (with the result of ``done``) or ``error``."""
        try:
            for index, text in enumerate(texts):
                text.add_done_callback(partial(self._receive, index))
            missing = len(texts)
            while missing:
                index, received = await asyncio.wait_for(self._received.get(), self._seconds_left)
                if isinstance(received, str):
                    yield _event("piece", {"index": index, "piece": received})
                    continue
                missing -= 1
                error = received.exception()
                if error is None:
                    yield _event("done", done(index, received.result()))
                else:
                    yield self._error_event(error, index)
        except TimeoutError:
            yield _event("error", {"error": error_detail(self._deadline_problem())})
        finally:
            self._cancel(texts)

    @property
    def _seconds_left(self) -> float:
        return max(0.0, self._end - time.monotonic())

    def _receive(self, index: int, received: str | Future[Any]) -> None:
        """Called in the encoder's thread. Raises: RuntimeError when the loop is closed, as a listener may."""
        self._loop.call_soon_threadsafe(self._received.put_nowait, (index, received))

    def _cancel(self, texts: Sequence[Future[Any]]) -> None:
        for listener, text in zip(self.listeners, texts, strict=True):
            listener.cancelled = True
            text.cancel()

    def _error_event(self, error: BaseException, index: int) -> Event:
        detail = error_detail(error)
        if self._field and "field" not in detail:
            detail["field"] = detail["param"] = f"{self._field}.{index}"
        return _event("error", {"error": detail, "index": index})

    def _deadline_problem(self) -> Problem:
        message = f"the text was not written within {self._seconds:g} s; send fewer images, tokens or beams"
        return Problem(504, "deadline_exceeded", message)


def _event(name: str, data: dict[str, Any]) -> Event:
    return {"event": name, "data": json.dumps(data, separators=(",", ":"))}
