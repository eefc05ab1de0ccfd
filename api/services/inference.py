"""Inference requests: items to vectors, and generated texts awaited or streamed within the request's deadline.

A consumer that goes away, or whose deadline passes, cancels its texts: nothing is generated for nobody.
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

from api.core.errors import Problem, error_detail
from api.core.responses import ResponseDocs, documented_responses
from api.core.settings import ApiSettings
from api.schemas.base import Reference
from api.services.media import EmbeddingInput, RequestImages, TextPart, check_text, image_url_of

if TYPE_CHECKING:
    from lcl_core.encoders.captioning import StreamListener
    from lcl_core.serving.batched_engine import BatchedEngine


def image_urls(items: Sequence[EmbeddingInput]) -> dict[str, str]:
    """Data URLs of the images among the items, by their field."""
    found = ((f"input.{place}", image_url_of(item)) for place, item in enumerate(items))
    return {field: url for field, url in found if url is not None}


def submit_embeddings(
    encoder: BatchedEngine, items: Sequence[EmbeddingInput], read: RequestImages, settings: ApiSettings
) -> tuple[list[Future[Any]], int]:
    """Read the items and queue them: a future f32 [E] of each, in order, and the tokens that the model reads.

    Args:
        read: the images among the items.

    Raises: Problem 422 naming the item that is at fault, before anything is queued.
    """
    images: dict[int, Any] = {}
    texts: dict[int, str] = {}
    for place, item in enumerate(items):
        field = f"input.{place}"
        if field in read:
            images[place] = encoder.prepare(read.read(field))
        else:
            texts[place] = check_text(item.text if isinstance(item, TextPart) else str(item), settings, field)
    tokens = sum(encoder.count_tokens(list(texts.values()))) + len(images) * encoder.image_tokens
    futures: dict[int, Future[Any]] = {}
    if texts:
        futures.update(zip(texts, encoder.submit_texts(list(texts.values())), strict=True))
    if images:
        futures.update(zip(images, encoder.submit_images(list(images.values())), strict=True))
    return [futures[place] for place in range(len(items))], tokens


EVENT_STREAM = "text/event-stream"
STREAM_RESPONSES: ResponseDocs = documented_responses(
    "application/json",
    EVENT_STREAM,
    words="The texts; with `stream` events: `piece` {index, piece}, `done` with a whole text, `error` {error, index?}",
)
Event = dict[str, Any]


class GenerationParams(BaseModel):
    """Greedy unless ``num_beams`` or ``top_p`` says otherwise."""

    model_config = ConfigDict(extra="forbid")

    model: Reference = Field(description="id or name of an encoder")
    max_new_tokens: int = Field(24, ge=1, le=256)
    num_beams: int = Field(1, ge=1, le=16, description="more than one: beam search, whose text comes as one piece")
    top_p: float | None = Field(None, gt=0, le=1, description="draw from this much of the probability")
    temperature: float = Field(1.0, ge=0.001, le=10)
    seed: int = Field(0, ge=0, lt=2**31)
    stream: bool = Field(False, description="send pieces as server-sent events while they are written")


class StreamConsumers:
    """Who waits for ``count`` texts in an event loop. Made in that loop.

    Args:
        seconds: how long from now.
        pieces: whether ``events`` are wanted.
        field: what the request calls its items, if there may be several: an error of one names it.
    """

    def __init__(self, count: int, seconds: float, *, pieces: bool, field: str | None = None) -> None:
        from lcl_core.encoders.captioning import StreamListener  # beside numpy: only when an encoder is asked

        self._loop = asyncio.get_running_loop()
        self._received: asyncio.Queue[tuple[int, str | Future[Any]]] = asyncio.Queue()
        self._seconds, self._end, self._field = seconds, time.monotonic() + seconds, field
        self.readers: list[StreamListener] = [
            StreamListener(partial(self._receive, index)) if pieces else StreamListener() for index in range(count)
        ]

    async def whole(self, texts: Sequence[Future[Any]]) -> list[str]:
        """All texts. Raises: the first bad item's error; Problem 504."""
        from lcl_core.serving.dynamic_batcher import gather_results

        try:
            return await asyncio.wait_for(gather_results(texts), self._seconds_left)
        except TimeoutError as error:
            raise self._deadline_problem() from error
        finally:
            self._cancel(texts)

    async def events(
        self, texts: Sequence[Future[Any]], done: Callable[[int, str], dict[str, Any]]
    ) -> AsyncIterator[Event]:
        """``piece`` and, for each text, ``done`` (with what ``done`` makes of it) or ``error``."""
        try:
            for index, text in enumerate(texts):
                text.add_done_callback(partial(self._receive, index))
            missing = len(texts)
            while missing:
                index, heard = await asyncio.wait_for(self._received.get(), self._seconds_left)
                if isinstance(heard, str):
                    yield _event("piece", {"index": index, "piece": heard})
                    continue
                missing -= 1
                error = heard.exception()
                yield _event("done", done(index, heard.result())) if error is None else self._error_event(error, index)
        except TimeoutError:
            yield _event("error", {"error": error_detail(self._deadline_problem())})
        finally:
            self._cancel(texts)

    @property
    def _seconds_left(self) -> float:
        return max(0.0, self._end - time.monotonic())

    def _receive(self, index: int, heard: str | Future[Any]) -> None:
        """From the encoder's thread. Raises: RuntimeError when the loop is closed, as the reader may."""
        self._loop.call_soon_threadsafe(self._received.put_nowait, (index, heard))

    def _cancel(self, texts: Sequence[Future[Any]]) -> None:
        for reader, text in zip(self.readers, texts, strict=True):
            reader.cancelled = True
            text.cancel()

    def _error_event(self, error: BaseException, index: int) -> Event:
        facts = error_detail(error)
        if self._field and "field" not in facts:
            facts["field"] = f"{self._field}.{index}"
        return _event("error", {"error": facts, "index": index})

    def _deadline_problem(self) -> Problem:
        message = f"the text was not written within {self._seconds:g} s; ask for fewer pictures, tokens or beams"
        return Problem(504, "deadline_exceeded", message)


def _event(name: str, data: dict[str, Any]) -> Event:
    return {"event": name, "data": json.dumps(data, ensure_ascii=False, separators=(",", ":"))}
