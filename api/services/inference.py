"""Embeddings, captions, continuations and attention maps of a request.

Images are read in few threads, then the event loop awaits the model. Generated texts are awaited or streamed within the
request's deadline; a consumer that disconnects, or whose deadline passes, cancels its texts.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from anyio import to_thread
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session

from api.core import limits
from api.core.errors import Problem, error_detail
from api.schemas.inference import (
    IMAGE_URL_START,
    AttentionRequest,
    CaptionRequest,
    ContinuationRequest,
    DocumentImage,
    EmbeddingInput,
    EmbeddingRequest,
    ImagePart,
    TextPart,
)
from api.services.encoders import open_encoder
from api.services.media import Submitted, check_count, check_text, read_images
from api.services.state import AppState
from lcl_core.encoders.captioning import GenerationConfig, StreamListener
from lcl_core.serving.dynamic_batcher import gather_results

if TYPE_CHECKING:
    from api.services.request_images import RequestImages
    from lcl_core.serving.batched_engine import BatchedEngine

Event = dict[str, Any]
ATTENTION_DIGITS = 6


async def embed(state: AppState, session: Session, body: EmbeddingRequest) -> JSONResponse:
    """L2-normalised vectors in the order of the items. Closes the session. Raises: Problem 422 naming the item."""
    items = body.input if isinstance(body.input, list) else [body.input]
    found = ((f"input.{index}", _image_url(item)) for index, item in enumerate(items))
    urls = {field: url for field, url in found if url is not None}

    def begin() -> tuple[BatchedEngine, None]:
        encoder = open_encoder(state, session, body.model)
        if body.dimensions not in (None, encoder.dim):
            message = f"this encoder's vectors have {encoder.dim} numbers, and cannot be shortened"
            raise Problem(422, "bad_request", f"{message}; leave dimensions out", field="dimensions")
        check_count(items, "input")
        encoder.check_room(len(urls))
        return encoder, None

    def read(encoder: BatchedEngine, _: None, images: RequestImages) -> Submitted[int]:
        return submit_embeddings(encoder, items, images)

    def respond(vectors: list[Any]) -> JSONResponse:
        data: list[dict[str, Any]] = [
            {"object": "embedding", "index": index, "embedding": _encode_vector(vector, body.encoding_format)}
            for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return JSONResponse({"object": "list", "data": data, "model": body.model, "usage": usage})

    submitted, tokens = await read_images(state, urls, begin, read)
    return await to_thread.run_sync(respond, await gather_results(submitted), limiter=state.inferring)


def submit_embeddings(encoder: BatchedEngine, items: Sequence[EmbeddingInput], images: RequestImages) -> Submitted[int]:
    """Queue the items: a future f32 [E] of each, in order, and the number of tokens that the model reads.

    Raises: Problem 422 naming the item at fault, before anything is queued.
    """
    prepared: dict[int, Any] = {}
    texts: dict[int, str] = {}
    for index, item in enumerate(items):
        field = f"input.{index}"
        if field in images:
            prepared[index] = encoder.prepare(images.read(field))
        else:
            texts[index] = check_text(item.text if isinstance(item, TextPart) else str(item), field)
    tokens = sum(encoder.count_tokens(list(texts.values()))) + len(prepared) * encoder.image_tokens
    futures: dict[int, Future[Any]] = {}
    if texts:
        futures.update(zip(texts, encoder.submit_texts(list(texts.values())), strict=True))
    if prepared:
        futures.update(zip(prepared, encoder.submit_images(list(prepared.values())), strict=True))
    return [futures[index] for index in range(len(items))], tokens


def _image_url(item: EmbeddingInput) -> str | None:
    """The data URL of an image; None: the item is a text."""
    if isinstance(item, ImagePart):
        return item.image_url.url
    return item if isinstance(item, str) and item.startswith(IMAGE_URL_START) else None


def _encode_vector(vector: Any, encoding: str) -> list[float] | str:
    if encoding == "float":
        return vector.tolist()
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")


async def attend(state: AppState, session: Session, body: AttentionRequest) -> JSONResponse:
    """Attention weights of the pooling, by patch. Closes the session."""

    def begin() -> tuple[BatchedEngine, None]:
        check_count(body.images, "images")
        encoder = open_encoder(state, session, body.model)
        encoder.check_room(len(body.images))
        return encoder, None

    def read(encoder: BatchedEngine, _: None, images: RequestImages) -> Submitted[list[list[float]]]:
        boxes, prepared = [], []
        for field in images:
            image = images.read(field)
            boxes.append(list(encoder.crop_box(image)))
            prepared.append(encoder.prepare(image))
            del image  # before the next one is decoded
        return encoder.submit_attention(prepared), boxes

    def respond(weights: list[Any]) -> JSONResponse:
        data: list[dict[str, Any]] = []
        for index, (box, each) in enumerate(zip(boxes, weights, strict=True)):
            heads = each.astype("f8")
            row = {"index": index, "grid": list(heads.shape[1:]), "box": [round(x, ATTENTION_DIGITS) for x in box]}
            row["mean"] = heads.mean(0).round(ATTENTION_DIGITS).tolist()
            data.append(row | ({"heads": heads.round(ATTENTION_DIGITS).tolist()} if body.heads else {}))
        return JSONResponse({"object": "list", "data": data, "model": body.model})

    submitted, boxes = await read_images(state, _image_fields(body.images), begin, read)
    return await to_thread.run_sync(respond, await gather_results(submitted), limiter=state.inferring)


async def caption(state: AppState, session: Session, body: CaptionRequest) -> tuple[list[Future[Any]], StreamConsumers]:
    """The submitted captions and their consumers. Closes the session. Raises: Problem 422."""
    check_count(body.images, "images")
    consumers = StreamConsumers(len(body.images), limits.WRITING_SECONDS, stream=body.stream, field="images")

    def begin() -> tuple[BatchedEngine, GenerationConfig]:
        encoder = open_encoder(state, session, body.model)
        check_text(body.prompt, "prompt")
        check_text(body.context, "context")
        options = GenerationConfig(**body.model_dump(exclude={"model", "images", "stream"}))
        encoder.check_room(len(body.images))
        return encoder, options

    def read(encoder: BatchedEngine, options: GenerationConfig, images: RequestImages) -> Submitted[None]:
        prepared = [encoder.prepare(images.read(field)) for field in images]
        return encoder.submit_captions(prepared, options, consumers.listeners), None

    texts, _ = await read_images(state, _image_fields(body.images), begin, read)
    return texts, consumers


async def continue_document(
    state: AppState, session: Session, body: ContinuationRequest
) -> tuple[Future[Any], StreamConsumers]:
    """The submitted continuation and its consumer. Closes the session. Raises: Problem 422."""
    check_count(body.document, "document")
    consumers = StreamConsumers(1, limits.WRITING_SECONDS, stream=body.stream)
    parts = list(enumerate(body.document))
    urls = {f"document.{index}.image": part.image for index, part in parts if isinstance(part, DocumentImage)}

    def begin() -> tuple[BatchedEngine, GenerationConfig]:
        encoder = open_encoder(state, session, body.model)
        options = GenerationConfig(**body.model_dump(exclude={"model", "document", "stream"}))
        for index, part in parts:
            if isinstance(part, str):
                _check_document_text(part, f"document.{index}")
        encoder.check_room(1)
        return encoder, options

    def read(encoder: BatchedEngine, options: GenerationConfig, images: RequestImages) -> Submitted[None]:
        document = [
            part if isinstance(part, str) else encoder.prepare(images.read(f"document.{index}.image"))
            for index, part in parts
        ]
        return [encoder.submit_continuation(document, options, consumers.listeners[0])], None

    (text,), _ = await read_images(state, urls, begin, read)
    return text, consumers


def _image_fields(images: Sequence[str]) -> dict[str, str]:
    return {f"images.{index}": url for index, url in enumerate(images)}


def _check_document_text(part: str, field: str) -> None:
    """Raises: Problem 422 naming the part."""
    if part.startswith(IMAGE_URL_START):
        message = f'{field}: this text is an image; send it as {{"image": "data:image/…"}}'
        raise Problem(422, "bad_request", message, field=field)
    check_text(part, field)


class StreamConsumers:
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
