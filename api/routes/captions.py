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

from api.context import Context
from api.deps import ContextDep, ReaderDep, Viewer
from api.encoders import open_encoder
from api.errors import REFUSALS
from api.image_reading import RequestImages, read_images
from api.media import Content, check_count, check_text
from api.writing import STREAMS, Audience, Decoding

if TYPE_CHECKING:
    from lcl_core.serving.batching_session import BatchingSession
    from lcl_core.serving.options import CaptionOptions
    from lcl_core.serving.readers import Reader

router = APIRouter(prefix="/v1/captions", tags=["inference"], responses=REFUSALS)


class CaptionRequest(Decoding):
    """Greedy unless ``num_beams`` or ``top_p`` says otherwise. Picture i is drawn with ``seed`` + i."""

    images: list[Content] = Field(description="pictures as data URLs")
    prompt: str = Field("", max_length=10_000, description="text that the caption continues")
    context: str = Field("", max_length=10_000, description="text before the picture")


class Caption(BaseModel):
    index: int
    caption: str


class CaptionResponse(BaseModel):
    object: Literal["list"] = "list"
    model: str
    data: list[Caption]


@router.post("", response_model=CaptionResponse, responses=STREAMS)
async def captions(body: CaptionRequest, caller: Viewer, context: ContextDep, session: ReaderDep) -> Any:
    """What the text tower says about each picture; with ``stream`` while it says it."""
    check_count(body.images, context.settings, "images")
    audience = Audience(len(body.images), context.settings.writing_seconds, pieces=body.stream, field="images")
    urls = {f"images.{place}": url for place, url in enumerate(body.images)}
    begin = partial(_begin, context, session, body)
    read = partial(_read, audience.readers)
    identity, texts = await read_images(context, caller.owner, urls, begin, read)
    if body.stream:
        return EventSourceResponse(audience.events(texts, lambda index, text: {"index": index, "caption": text}))
    found = [Caption(index=index, caption=text) for index, text in enumerate(await audience.whole(texts))]
    return CaptionResponse(model=identity, data=found)


def _begin(
    context: Context, session: Session, body: CaptionRequest
) -> tuple[BatchingSession, tuple[str, CaptionOptions]]:
    from lcl_core.serving.options import CaptionOptions

    settings = context.settings
    identity, encoder = open_encoder(context, session, body.model)
    check_text(body.prompt, settings, "prompt")
    check_text(body.context, settings, "context")
    options = CaptionOptions(**body.model_dump(exclude={"model", "images", "stream"}))
    encoder.check_room(len(body.images))
    return encoder, (identity, options)


def _read(
    readers: Sequence[Reader],
    encoder: BatchingSession,
    begun: tuple[str, CaptionOptions],
    images: RequestImages,
) -> tuple[str, list[Future[Any]]]:
    identity, options = begun
    prepared = [encoder.prepare(images.read(field)) for field in images]
    return identity, encoder.submit_captions(prepared, options, readers)
