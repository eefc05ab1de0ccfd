"""What comes after a document of texts and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session
from sse_starlette.sse import EventSourceResponse

from api.core.errors import ERROR_RESPONSES, Problem
from api.core.settings import ApiSettings
from api.core.state import AppState
from api.deps import ReadSessionDep, StateDep, Viewer
from api.services.encoders import open_encoder
from api.services.inference import STREAM_RESPONSES, GenerationParams, StreamConsumers
from api.services.media import IMAGE_URL_START, Content, RequestImages, check_count, check_text, read_images

if TYPE_CHECKING:
    from lcl_core.encoders.captioning import GenerationConfig, StreamListener
    from lcl_core.serving.batched_engine import BatchedEngine

router = APIRouter(prefix="/v1/continuations", tags=["inference"], responses=ERROR_RESPONSES)


class DocumentImage(BaseModel):
    model_config = ConfigDict(extra="forbid")

    image: Content = Field(description="a picture as a data URL")


class ContinuationRequest(GenerationParams):
    """Greedy unless ``num_beams`` or ``top_p`` says otherwise."""

    document: list[Content | DocumentImage] = Field(
        description="texts and pictures in reading order", examples=[["A red"]]
    )


class ContinuationResponse(BaseModel):
    object: Literal["continuation"] = "continuation"
    model: str
    text: str


@router.post("", response_model=ContinuationResponse, responses=STREAM_RESPONSES)
async def continuations(body: ContinuationRequest, caller: Viewer, context: StateDep, session: ReadSessionDep) -> Any:
    """The text that goes on from a document, which is read as in training; with ``stream`` while it is written."""
    check_count(body.document, context.settings, "document")
    audience = StreamConsumers(1, context.settings.writing_seconds, pieces=body.stream)
    (reader,) = audience.readers
    urls = {_field(place): part.image for place, part in enumerate(body.document) if isinstance(part, DocumentImage)}
    begin = partial(_begin, context, session, body)
    read = partial(_read, body.document, reader)
    identity, text = await read_images(context, caller.owner, urls, begin, read)
    if body.stream:
        return EventSourceResponse(audience.events([text], lambda index, text: {"index": index, "text": text}))
    return ContinuationResponse(model=identity, text=(await audience.whole([text]))[0])


def _field(place: int) -> str:
    """Of an image in the document."""
    return f"document.{place}.image"


def _begin(
    context: AppState, session: Session, body: ContinuationRequest
) -> tuple[BatchedEngine, tuple[str, GenerationConfig]]:
    from lcl_core.encoders.captioning import GenerationConfig

    identity, encoder = open_encoder(context, session, body.model)
    options = GenerationConfig(**body.model_dump(exclude={"model", "document", "stream"}))
    for place, part in enumerate(body.document):
        if isinstance(part, str):
            _check(part, context.settings, f"document.{place}")
    encoder.check_room(1)
    return encoder, (identity, options)


def _read(
    document: Sequence[str | DocumentImage],
    reader: StreamListener,
    encoder: BatchedEngine,
    begun: tuple[str, GenerationConfig],
    images: RequestImages,
) -> tuple[str, Future[Any]]:
    identity, options = begun
    parts = [
        part if isinstance(part, str) else encoder.prepare(images.read(_field(place)))
        for place, part in enumerate(document)
    ]
    return identity, encoder.submit_continuation(parts, options, reader)


def _check(part: str, settings: ApiSettings, field: str) -> None:
    """Raises: Problem 422 naming the part."""
    if part.startswith(IMAGE_URL_START):
        message = f'{field}: this is a picture, sent as a text; send it as {{"image": "data:image/…"}}'
        raise Problem(422, "bad_document", message, field=field)
    check_text(part, settings, field)
