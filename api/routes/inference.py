"""Embeddings and models in OpenAI's form, captions, and continuations.

Images are read in few threads, then the event loop awaits the model. Generated texts are awaited or streamed within the
request's deadline.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from sse_starlette.sse import EventSourceResponse

from api.core import limits
from api.core.errors import ERROR_RESPONSES, Problem, documented_responses
from api.core.models import EXAMPLE_IMAGE, IMAGE_URL_START, Content, Reference, request_example
from api.deps import ReadSessionDep, StateDep, Viewer
from api.services.encoders import Submitted, check_count, check_text, open_encoder, read_images
from api.services.text_streams import TextConsumers
from lcl_core.db import registry
from lcl_core.encoders.captioning import GenerationConfig
from lcl_core.serving.dynamic_batcher import gather_results

if TYPE_CHECKING:
    from api.services.request_images import RequestImages
    from lcl_core.serving.batched_engine import BatchedEngine

router = APIRouter(prefix="/v1", tags=["inference"], responses=ERROR_RESPONSES)
STREAM_RESPONSES = documented_responses(
    "application/json",
    "text/event-stream",
    description="The texts; with `stream` events: `piece` {index, piece}, `done` with a whole text, "
    "`error` {error, index?}",
)


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
    user: str | None = Field(None, max_length=200, description="accepted for OpenAI's clients; not kept")


class EmbeddingView(BaseModel):
    object: Literal["embedding"] = Field(description="kind of the object")
    index: int = Field(description="place of its input")
    embedding: list[float] | str = Field(description="the vector, as encoding_format says")


class TokenUsageView(BaseModel):
    prompt_tokens: int = Field(description="tokens that the encoder read")
    total_tokens: int = Field(description="the same")


class EmbeddingResponse(BaseModel):
    object: Literal["list"] = Field(description="kind of the object")
    data: list[EmbeddingView] = Field(description="one vector per input, in order")
    model: str = Field(description="as in the request")
    usage: TokenUsageView


@router.post("/embeddings", summary="Create embeddings", response_model=EmbeddingResponse)
async def embeddings(body: EmbeddingRequest, _: Viewer, state: StateDep, session: ReadSessionDep) -> JSONResponse:
    """L2-normalised vectors of texts and images in one space. ``base64`` is little-endian float32."""
    items = body.input if isinstance(body.input, list) else [body.input]
    found = ((f"input.{index}", _image_url(item)) for index, item in enumerate(items))
    urls = {field: url for field, url in found if url is not None}

    def begin() -> tuple[BatchedEngine, None]:
        encoder = open_encoder(state, session, body.model)
        if body.dimensions not in (None, encoder.dim):
            message = f"this encoder's vectors have {encoder.dim} numbers, and cannot be shortened"
            raise Problem(422, "invalid_value", f"{message}; leave dimensions out", field="dimensions")
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
async def captions(body: CaptionRequest, _: Viewer, state: StateDep, session: ReadSessionDep) -> Any:
    """Generated captions of the images; with ``stream`` piece by piece."""
    check_count(body.images, "images")
    consumers = TextConsumers(len(body.images), limits.WRITING_SECONDS, stream=body.stream, field="images")

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

    texts, _none = await read_images(state, _image_fields(body.images), begin, read)
    if body.stream:
        return EventSourceResponse(consumers.events(texts, lambda index, text: {"index": index, "caption": text}))
    data = [CaptionView(index=index, caption=text) for index, text in enumerate(await consumers.wait_all(texts))]
    return CaptionResponse(model=body.model, data=data)


@router.post(
    "/continuations", summary="Continue document", response_model=ContinuationResponse, responses=STREAM_RESPONSES
)
async def continuations(body: ContinuationRequest, _: Viewer, state: StateDep, session: ReadSessionDep) -> Any:
    """Text generated after a document, which is read as in training; with ``stream`` piece by piece."""
    check_count(body.document, "document")
    consumers = TextConsumers(1, limits.WRITING_SECONDS, stream=body.stream)
    parts = list(enumerate(body.document))
    urls = {f"document.{index}.image": part.image for index, part in parts if isinstance(part, DocumentImage)}

    def begin() -> tuple[BatchedEngine, GenerationConfig]:
        encoder = open_encoder(state, session, body.model)
        options = GenerationConfig(**body.model_dump(exclude={"model", "document", "stream"}))
        for index, part in parts:
            field = f"document.{index}"
            if isinstance(part, str) and part.startswith(IMAGE_URL_START):
                message = f'{field}: this text is an image; send it as {{"image": "data:image/…"}}'
                raise Problem(422, "invalid_value", message, field=field)
            if isinstance(part, str):
                check_text(part, field)
        encoder.check_room(1)
        return encoder, options

    def read(encoder: BatchedEngine, options: GenerationConfig, images: RequestImages) -> Submitted[None]:
        document = [
            part if isinstance(part, str) else encoder.prepare(images.read(f"document.{index}.image"))
            for index, part in parts
        ]
        return [encoder.submit_continuation(document, options, consumers.listeners[0])], None

    texts, _none = await read_images(state, urls, begin, read)
    if body.stream:
        return EventSourceResponse(consumers.events(texts, lambda index, text: {"index": index, "text": text}))
    return ContinuationResponse(model=body.model, text=(await consumers.wait_all(texts))[0])


def _image_fields(images: Sequence[str]) -> dict[str, str]:
    return {f"images.{index}": url for index, url in enumerate(images)}
