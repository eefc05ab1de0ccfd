"""Embeddings and models in OpenAI's form, captions, and continuations.

Images are read in few threads, then the event loop awaits the model. Generated texts are awaited or streamed within a
deadline.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from sse_starlette.sse import EventSourceResponse

from api.core.errors import ERROR_RESPONSES, Problem, documented_responses, error_detail
from api.core.models import EXAMPLE_IMAGE, IMAGE_URL_START, Content, Reference, request_example
from api.deps import ReadSessionDep, StateDep, Viewer
from api.services.encoders import check_count, check_text, open_encoder, read_images
from lcl_core.db import registry
from lcl_core.encoders.captioning import GenerationConfig, StreamListener
from lcl_core.serving.dynamic_batcher import gather_results

router = APIRouter(prefix="/v1", tags=["inference"], responses=ERROR_RESPONSES)
MAX_INLINE = 4096  # characters of texts, numbers of vectors that the event loop reads or writes itself
STREAM_RESPONSES = documented_responses(
    "application/json",
    "text/event-stream",
    description="The texts; with `stream` events: `piece` {index, piece}, `done` with a whole text, "
    "`error` {error, index?}",
)
# an address or a file's base64 alone, which clients of other services send for the image it stands for
IMAGE_AS_TEXT = re.compile(r"\s*(https?://\S+|[A-Za-z0-9+/]{200,}={0,2})\s*")
WRITING_SECONDS = 120.0  # after which captions and continuations that are not written end with an error


class ModelView(BaseModel):
    """An encoder as an entry of OpenAI's list of models."""

    id: str = Field(description="the name of the encoder, or its id where a newer encoder has the name")
    object: Literal["model"] = Field("model", description="kind of the object")
    created: int = Field(description="when it was registered, in seconds since 1970")
    owned_by: str = Field(description="who trained or imported it")
    encoder_id: str = Field(description="id of the encoder")


class ModelList(BaseModel):
    object: Literal["list"] = Field("list", description="kind of the object")
    data: list[ModelView] = Field(description="newest first")


@router.get("/models", summary="List models")
def models(_: Viewer, session: ReadSessionDep) -> ModelList:
    """The encoders as OpenAI's API lists models: each ``id`` is what ``model`` of the other calls takes."""
    names: set[str] = set()
    data = []
    for row in registry.list_encoders(session):  # the newest of a name by the name, the others by their id
        reference = row.id if row.name in names else row.name
        names.add(row.name)
        created = int(row.created_at.timestamp())
        data.append(ModelView(id=reference, created=created, owned_by=row.owner, encoder_id=row.id))
    return ModelList(data=data)


NO_TOKENS = (
    "lists of token numbers are not accepted, because each encoder has a tokenizer of its own; send the text itself"
)


class ImageUrl(BaseModel):
    model_config = ConfigDict(extra="forbid")

    url: Content = Field(description="an image as a data URL")
    detail: Literal["auto", "low", "high"] | None = Field(
        None, description="accepted for OpenAI's clients; changes nothing"
    )


class ImagePart(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["image_url"] = Field(description="kind of the part")
    image_url: ImageUrl


class TextPart(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["text"] = Field(description="kind of the part")
    text: Content = Field(description="the text")


EmbeddingInput = Content | ImagePart | TextPart
# Their number is a setting's, which is checked later: the first item that is wrong ends the check of the others.
EmbeddingInputs = Annotated[list[EmbeddingInput], Field(fail_fast=True)]
ImageUrls = Annotated[list[Content], Field(fail_fast=True)]


def _refuse_tokens(value: Any) -> Any:
    """Raises: ValueError for what OpenAI's API accepts beside texts: lists of tokens."""
    first = value[0] if isinstance(value, list) and value else None
    first = first[0] if isinstance(first, list) and first else first
    if isinstance(first, int) and not isinstance(first, bool):
        raise ValueError(NO_TOKENS)
    return value


class EmbeddingRequest(BaseModel):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra=request_example(model="drawings-v5", input=["a red bird", EXAMPLE_IMAGE])
    )

    model: Reference = Field(description="id or name of an encoder")
    input: Annotated[EmbeddingInput | EmbeddingInputs, BeforeValidator(_refuse_tokens)] = Field(
        description="texts, and images as data URLs", examples=["a red bird"]
    )
    encoding_format: Literal["float", "base64"] = Field("float", description="base64: little-endian float32")
    dimensions: int | None = Field(None, ge=1, description="numbers in a vector; only as many as the encoder gives")
    truncate: bool = Field(True, description="false: a text longer than the encoder reads is refused instead of cut")
    user: str | None = Field(None, max_length=200, description="accepted for OpenAI's clients; not kept")


class EmbeddingView(BaseModel):
    object: Literal["embedding"] = Field(description="kind of the object")
    index: int = Field(description="place of its input")
    embedding: list[float] | str = Field(description="the vector, as encoding_format says")


class TokenUsageView(BaseModel):
    prompt_tokens: int = Field(description="tokens that the encoder read")
    total_tokens: int = Field(description="the same")
    truncated_inputs: int = Field(description="texts that fill the encoder's context: what follows in them is not read")


class EmbeddingResponse(BaseModel):
    object: Literal["list"] = Field(description="kind of the object")
    data: list[EmbeddingView] = Field(description="one vector per input, in order")
    model: str = Field(description="as in the request")
    usage: TokenUsageView


@router.post("/embeddings", summary="Create embeddings", response_model=EmbeddingResponse)
async def embeddings(body: EmbeddingRequest, _: Viewer, state: StateDep) -> JSONResponse:
    """L2-normalised vectors of texts and images in one space. ``base64`` is little-endian float32."""
    items = body.input if isinstance(body.input, list) else [body.input]
    encoder = await open_encoder(state, body.model)
    if body.dimensions not in (None, encoder.dim):
        message = f"this encoder's vectors have {encoder.dim} numbers, and cannot be shortened"
        raise Problem(422, "invalid_value", f"{message}; leave dimensions out", field="dimensions")
    check_count(items, "input")
    urls, texts = {}, {}
    for index, item in enumerate(items):
        content = item if isinstance(item, str) else item.text if isinstance(item, TextPart) else item.image_url.url
        if isinstance(item, ImagePart) or (isinstance(item, str) and content.startswith(IMAGE_URL_START)):
            urls[f"input.{index}"] = content
        else:
            field = f"input.{index}"
            if isinstance(item, str) and IMAGE_AS_TEXT.fullmatch(item):
                message = (
                    f"{field}: an address or base64 alone is not embedded as text; send an image as "
                    '{"type": "image_url", "image_url": {"url": "data:image/png;base64,…"}}, a text as '
                    '{"type": "text", "text": "…"}'
                )
                raise Problem(422, "invalid_value", message, field=field)
            texts[field] = check_text(content, field)
    encoder.check_room(len(urls))
    images = await read_images(state, urls, lambda _, image: encoder.prepare(image))

    def submit() -> tuple[dict[str, Future[Any]], dict[str, int]]:
        counts = dict(zip(texts, encoder.count_tokens(list(texts.values())), strict=True))
        cut = [field for field, count in counts.items() if count == encoder.text_limit]
        if cut and not body.truncate:
            message = f"{cut[0]}: the encoder reads {encoder.text_limit} tokens, and this text fills them; shorten it"
            raise Problem(422, "too_large", message, field=cut[0])
        tokens = sum(counts.values()) + len(images) * encoder.image_tokens
        usage = {"prompt_tokens": tokens, "total_tokens": tokens, "truncated_inputs": len(cut)}
        futures = dict(zip(texts, encoder.submit_texts(list(texts.values())), strict=True))
        return futures | dict(zip(images, encoder.submit_images(list(images.values())), strict=True)), usage

    def respond(vectors: dict[str, Any]) -> JSONResponse:
        data: list[dict[str, Any]] = [
            {
                "object": "embedding",
                "index": index,
                "embedding": _encode_vector(vectors[f"input.{index}"], body.encoding_format),
            }
            for index in range(len(items))
        ]
        headers = {"LCL-Truncated-Inputs": str(usage["truncated_inputs"])} if usage["truncated_inputs"] else None
        return JSONResponse({"object": "list", "data": data, "model": body.model, "usage": usage}, headers=headers)

    characters = sum(map(len, texts.values()))
    futures, usage = submit() if characters < MAX_INLINE else await to_thread.run_sync(submit)
    vectors = dict(zip(futures, await gather_results(list(futures.values())), strict=True))
    return respond(vectors) if len(items) * encoder.dim < MAX_INLINE else await to_thread.run_sync(respond, vectors)


def _encode_vector(vector: Any, encoding: str) -> list[float] | str:
    if encoding == "float":
        return vector.tolist()
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")


class GenerationParams(BaseModel):
    """Greedy unless ``num_beams`` or ``top_p`` says otherwise."""

    model_config = ConfigDict(extra="forbid")

    model: Reference = Field(description="id or name of an encoder")
    max_new_tokens: int = Field(24, ge=1, le=256, description="greatest length of the text")
    num_beams: int = Field(1, ge=1, le=16, description="more than one: beam search, whose text comes as one piece")
    top_p: float | None = Field(None, gt=0, le=1, description="draw from this much of the probability")
    temperature: float = Field(1.0, ge=0.001, le=10, description="of the sampling, with top_p")
    seed: int = Field(0, ge=0, lt=2**31, description="of the sampling, with top_p")
    stream: bool = Field(False, description="send pieces as server-sent events while they are written")


class CaptionRequest(GenerationParams):
    """Greedy unless ``num_beams`` or ``top_p`` says otherwise. Image i is drawn with ``seed`` + i."""

    model_config = ConfigDict(json_schema_extra=request_example(model="drawings-v5", images=[EXAMPLE_IMAGE]))

    images: ImageUrls = Field(description="images as data URLs")
    prompt: str = Field("", max_length=10_000, description="text that the caption continues")
    context: str = Field("", max_length=10_000, description="text before the image")


class CaptionView(BaseModel):
    index: int = Field(description="place of its image")
    caption: str = Field(description="the text")


class CaptionResponse(BaseModel):
    object: Literal["list"] = Field("list", description="kind of the object")
    model: str = Field(description="as in the request")
    data: list[CaptionView] = Field(description="one caption per image, in order")


class DocumentImage(BaseModel):
    model_config = ConfigDict(extra="forbid")

    image: Content = Field(description="an image as a data URL")


class ContinuationRequest(GenerationParams):
    """Greedy unless ``num_beams`` or ``top_p`` says otherwise."""

    model_config = ConfigDict(
        json_schema_extra=request_example(model="drawings-v5", document=["A page about", {"image": EXAMPLE_IMAGE}])
    )

    document: Annotated[list[Content | DocumentImage], Field(fail_fast=True)] = Field(
        description="texts and images in reading order", examples=[["A red"]]
    )


class ContinuationResponse(BaseModel):
    object: Literal["continuation"] = Field("continuation", description="kind of the object")
    model: str = Field(description="as in the request")
    text: str = Field(description="what follows the document")


@router.post("/captions", summary="Create captions", response_model=CaptionResponse, responses=STREAM_RESPONSES)
async def captions(body: CaptionRequest, _: Viewer, state: StateDep) -> Any:
    """Generated captions of the images; with ``stream`` piece by piece."""
    check_count(body.images, "images")
    check_text(body.prompt, "prompt")
    check_text(body.context, "context")
    encoder = await open_encoder(state, body.model)
    options = GenerationConfig(**body.model_dump(exclude={"model", "images", "stream"}))
    encoder.check_room(len(body.images))
    fields = {f"images.{index}": url for index, url in enumerate(body.images)}
    images = await read_images(state, fields, lambda _, image: encoder.prepare(image))
    writing = TextConsumers(len(images), stream=body.stream, field="images")
    texts = await to_thread.run_sync(encoder.submit_captions, list(images.values()), options, writing.listeners)
    if body.stream:
        return EventSourceResponse(writing.events(texts, lambda index, text: {"index": index, "caption": text}))
    data = [CaptionView(index=index, caption=text) for index, text in enumerate(await writing.wait_all(texts))]
    return CaptionResponse(model=body.model, data=data)


@router.post(
    "/continuations", summary="Continue document", response_model=ContinuationResponse, responses=STREAM_RESPONSES
)
async def continuations(body: ContinuationRequest, _: Viewer, state: StateDep) -> Any:
    """Text generated after a document, which is read as in training; with ``stream`` piece by piece."""
    check_count(body.document, "document")
    urls = {}
    for index, part in enumerate(body.document):
        if isinstance(part, DocumentImage):
            urls[f"document.{index}.image"] = part.image
        elif part.startswith(IMAGE_URL_START):
            message = f'document.{index}: this text is an image; send it as {{"image": "data:image/…"}}'
            raise Problem(422, "invalid_value", message, field=f"document.{index}")
        else:
            check_text(part, f"document.{index}")
    encoder = await open_encoder(state, body.model)
    options = GenerationConfig(**body.model_dump(exclude={"model", "document", "stream"}))
    encoder.check_room(1)
    images = await read_images(state, urls, lambda _, image: encoder.prepare(image))
    document = [
        part if isinstance(part, str) else images[f"document.{index}.image"] for index, part in enumerate(body.document)
    ]
    writing = TextConsumers(1, stream=body.stream)
    text = await to_thread.run_sync(encoder.submit_continuation, document, options, writing.listeners[0])
    if body.stream:
        return EventSourceResponse(writing.events([text], lambda index, words: {"index": index, "text": words}))
    return ContinuationResponse(model=body.model, text=(await writing.wait_all([text]))[0])


class TextConsumers:
    """Consumers of ``count`` texts in the running event loop: who disconnects, or is too slow, cancels them.

    Args:
        stream: ``events`` will be read.
        field: name of the request's items, if there may be several: an item's error names it.
    """

    def __init__(self, count: int, *, stream: bool, field: str | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._received: asyncio.Queue[tuple[int, str | Future[Any]]] = asyncio.Queue()
        self._end, self._field = self._loop.time() + WRITING_SECONDS, field
        self.listeners = [
            StreamListener(partial(self._receive, index)) if stream else StreamListener() for index in range(count)
        ]

    async def wait_all(self, texts: Sequence[Future[Any]]) -> list[str]:
        """All texts. Raises: the first failed item's error; Problem 504."""
        try:
            async with asyncio.timeout_at(self._end):
                return await gather_results(texts)
        except TimeoutError as error:
            raise _late() from error
        finally:
            self._cancel(texts)

    async def events(
        self, texts: Sequence[Future[Any]], done: Callable[[int, str], dict[str, Any]]
    ) -> AsyncIterator[dict[str, str]]:
        """``piece`` events and, for each text, ``done`` (with the result of ``done``) or ``error``."""
        try:
            for index, text in enumerate(texts):
                text.add_done_callback(partial(self._receive, index))
            missing = len(texts)
            while missing:
                async with asyncio.timeout_at(self._end):
                    index, received = await self._received.get()
                if isinstance(received, str):
                    yield _event("piece", {"index": index, "piece": received})
                    continue
                missing -= 1
                error = received.exception()
                if error is None:
                    yield _event("done", done(index, received.result()))
                    continue
                detail = error_detail(error)
                if self._field and "field" not in detail:
                    detail["field"] = detail["param"] = f"{self._field}.{index}"
                yield _event("error", {"error": detail, "index": index})
        except TimeoutError:
            yield _event("error", {"error": error_detail(_late())})
        finally:
            self._cancel(texts)

    def _receive(self, index: int, received: str | Future[Any]) -> None:
        """Called in the encoder's thread. Raises: RuntimeError when the loop is closed, as a listener may."""
        self._loop.call_soon_threadsafe(self._received.put_nowait, (index, received))

    def _cancel(self, texts: Sequence[Future[Any]]) -> None:
        for listener, text in zip(self.listeners, texts, strict=True):
            listener.cancelled = True
            text.cancel()


def _late() -> Problem:
    message = f"the text was not written within {WRITING_SECONDS:g} s; send fewer images, tokens or beams"
    return Problem(504, "deadline_exceeded", message)


def _event(name: str, data: dict[str, Any]) -> dict[str, str]:
    return {"event": name, "data": json.dumps(data, separators=(",", ":"))}
