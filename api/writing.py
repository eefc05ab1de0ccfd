"""Texts that encoders write: waited for, or sent on piece by piece, within the time that a request has.

Whoever goes away, or whose time is up, leaves: what was written for nobody else is not written to its end.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from api.answers import Responses, sends
from api.errors import Problem, facts_of
from api.models import Reference

if TYPE_CHECKING:
    from lcl_core.serving.readers import Reader

EVENTS = "text/event-stream"
STREAMS: Responses = sends(
    "application/json",
    EVENTS,
    words="The texts; with `stream` events: `piece` {index, piece}, `done` with a whole text, `error` {error, index?}",
)
Event = dict[str, Any]


class Decoding(BaseModel):
    """Greedy unless ``num_beams`` or ``top_p`` says otherwise."""

    model_config = ConfigDict(extra="forbid")

    model: Reference = Field(description="id or name of an encoder")
    max_new_tokens: int = Field(24, ge=1, le=256)
    num_beams: int = Field(1, ge=1, le=16, description="more than one: beam search, whose text comes as one piece")
    top_p: float | None = Field(None, gt=0, le=1, description="draw from this much of the probability")
    temperature: float = Field(1.0, ge=0.001, le=10)
    seed: int = Field(0, ge=0, lt=2**31)
    stream: bool = Field(False, description="send pieces as server-sent events while they are written")


class Audience:
    """Who waits for ``count`` texts in an event loop. Made in that loop.

    Args:
        seconds: how long from now.
        pieces: whether ``events`` are wanted.
        field: what the request calls its items, if there may be several: an error of one names it.
    """

    def __init__(self, count: int, seconds: float, *, pieces: bool, field: str | None = None) -> None:
        from lcl_core.serving.readers import Reader  # beside numpy: only when an encoder is asked

        self._loop = asyncio.get_running_loop()
        self._heard: asyncio.Queue[tuple[int, str | Future[Any]]] = asyncio.Queue()
        self._seconds, self._end, self._field = seconds, time.monotonic() + seconds, field
        self.readers: list[Reader] = [
            Reader(partial(self._hear, index)) if pieces else Reader() for index in range(count)
        ]

    async def whole(self, texts: Sequence[Future[Any]]) -> list[str]:
        """All texts. Raises: the first bad item's error; Problem 504."""
        from lcl_core.serving.futures import gather

        try:
            return await asyncio.wait_for(gather(texts), self._left)
        except TimeoutError as error:
            raise self._too_late() from error
        finally:
            self._leave(texts)

    async def events(
        self, texts: Sequence[Future[Any]], done: Callable[[int, str], dict[str, Any]]
    ) -> AsyncIterator[Event]:
        """``piece`` and, for each text, ``done`` (with what ``done`` makes of it) or ``error``."""
        try:
            for index, text in enumerate(texts):
                text.add_done_callback(partial(self._hear, index))
            missing = len(texts)
            while missing:
                index, heard = await asyncio.wait_for(self._heard.get(), self._left)
                if isinstance(heard, str):
                    yield _event("piece", {"index": index, "piece": heard})
                    continue
                missing -= 1
                error = heard.exception()
                yield _event("done", done(index, heard.result())) if error is None else self._failed(error, index)
        except TimeoutError:
            yield _event("error", {"error": facts_of(self._too_late())})
        finally:
            self._leave(texts)

    @property
    def _left(self) -> float:
        return max(0.0, self._end - time.monotonic())

    def _hear(self, index: int, heard: str | Future[Any]) -> None:
        """From the encoder's thread. Raises: RuntimeError when the loop is closed, as the reader may."""
        self._loop.call_soon_threadsafe(self._heard.put_nowait, (index, heard))

    def _leave(self, texts: Sequence[Future[Any]]) -> None:
        for reader, text in zip(self.readers, texts, strict=True):
            reader.has_left = True
            text.cancel()

    def _failed(self, error: BaseException, index: int) -> Event:
        facts = facts_of(error)
        if self._field and "field" not in facts:
            facts["field"] = f"{self._field}.{index}"
        return _event("error", {"error": facts, "index": index})

    def _too_late(self) -> Problem:
        message = f"the text was not written within {self._seconds:g} s; ask for fewer pictures, tokens or beams"
        return Problem(504, "deadline_exceeded", message)


def _event(name: str, data: dict[str, Any]) -> Event:
    return {"event": name, "data": json.dumps(data, ensure_ascii=False, separators=(",", ":"))}
