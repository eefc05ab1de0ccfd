"""Captions of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session
from sse_starlette.sse import EventSourceResponse

from api.core.errors import ERROR_RESPONSES
from api.core.state import AppState
from api.deps import ReadSessionDep, StateDep, Viewer
from api.services.encoders import open_encoder
from api.services.inference import STREAM_RESPONSES, GenerationParams, StreamConsumers
from api.services.media import Content, RequestImages, check_count, check_text, read_images

if TYPE_CHECKING:
    from lcl_core.encoders.captioning import GenerationConfig, StreamListener
    from lcl_core.serving.batched_engine import BatchedEngine

router = APIRouter(prefix="/v1/captions", tags=["inference"], responses=ERROR_RESPONSES)


class CaptionRequest(GenerationParams):
    """Greedy unless ``num_beams`` or ``top_p`` says otherwise. Picture i is drawn with ``seed`` + i."""

    images: list[Content] = Field(description="pictures as data URLs")
    prompt: str = Field("", max_length=10_000, description="text that the caption continues")
    context: str = Field("", max_length=10_000, description="text before the picture")


class CaptionView(BaseModel):
    index: int
    caption: str


class CaptionResponse(BaseModel):
    object: Literal["list"] = "list"
    model: str
    data: list[CaptionView]


@router.post("", response_model=CaptionResponse, responses=STREAM_RESPONSES)
async def captions(body: CaptionRequest, caller: Viewer, context: StateDep, session: ReadSessionDep) -> Any:
    """What the text tower says about each picture; with ``stream`` while it says it."""
    check_count(body.images, context.settings, "images")
    audience = StreamConsumers(len(body.images), context.settings.writing_seconds, pieces=body.stream, field="images")
    urls = {f"images.{place}": url for place, url in enumerate(body.images)}
    begin = partial(_begin, context, session, body)
    read = partial(_read, audience.readers)
    identity, texts = await read_images(context, caller.owner, urls, begin, read)
    if body.stream:
        return EventSourceResponse(audience.events(texts, lambda index, text: {"index": index, "caption": text}))
    found = [CaptionView(index=index, caption=text) for index, text in enumerate(await audience.whole(texts))]
    return CaptionResponse(model=identity, data=found)


def _begin(
    context: AppState, session: Session, body: CaptionRequest
) -> tuple[BatchedEngine, tuple[str, GenerationConfig]]:
    from lcl_core.encoders.captioning import GenerationConfig

    settings = context.settings
    identity, encoder = open_encoder(context, session, body.model)
    check_text(body.prompt, settings, "prompt")
    check_text(body.context, settings, "context")
    options = GenerationConfig(**body.model_dump(exclude={"model", "images", "stream"}))
    encoder.check_room(len(body.images))
    return encoder, (identity, options)


def _read(
    readers: Sequence[StreamListener],
    encoder: BatchedEngine,
    begun: tuple[str, GenerationConfig],
    images: RequestImages,
) -> tuple[str, list[Future[Any]]]:
    identity, options = begun
    prepared = [encoder.prepare(images.read(field)) for field in images]
    return identity, encoder.submit_captions(prepared, options, readers)
