"""What comes after a document of texts and pictures."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Literal

from anyio import to_thread
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session
from sse_starlette.sse import EventSourceResponse

from api.context import Context
from api.deps import ContextDep, ReaderDep, Viewer
from api.encoders import open_encoder
from api.errors import REFUSALS, Problem
from api.media import IMAGE_URL, Content, check_count, check_text, read_image
from api.settings import ApiSettings
from api.writing import STREAMS, Audience, Decoding

if TYPE_CHECKING:
    from PIL.Image import Image

    from lcl_core.serving.readers import Reader

router = APIRouter(prefix="/v1/continuations", tags=["inference"], responses=REFUSALS)


class Picture(BaseModel):
    model_config = ConfigDict(extra="forbid")

    image: Content = Field(description="a picture as a data URL")


class ContinuationRequest(Decoding):
    """Greedy unless ``num_beams`` or ``top_p`` says otherwise."""

    document: list[Content | Picture] = Field(description="texts and pictures in reading order", examples=[["A red"]])


class ContinuationResponse(BaseModel):
    object: Literal["continuation"] = "continuation"
    model: str
    text: str


@router.post("", response_model=ContinuationResponse, responses=STREAMS)
async def continuations(body: ContinuationRequest, _: Viewer, context: ContextDep, session: ReaderDep) -> Any:
    """The text that goes on from a document, which is read as in training; with ``stream`` while it is written."""
    check_count(body.document, context.settings, "document")
    audience = Audience(1, context.settings.writing_seconds, pieces=body.stream)
    (reader,), lane = audience.readers, context.inferring
    identity, text = await to_thread.run_sync(_begin, context, session, body, reader, limiter=lane)
    if body.stream:
        return EventSourceResponse(audience.events([text], lambda index, text: {"index": index, "text": text}))
    return ContinuationResponse(model=identity, text=(await audience.whole([text]))[0])


def _begin(context: Context, session: Session, body: ContinuationRequest, reader: Reader) -> tuple[str, Future[Any]]:
    from lcl_core.serving.options import CaptionOptions

    identity, encoder = open_encoder(context, session, body.model)
    options = CaptionOptions(**body.model_dump(exclude={"model", "document", "stream"}))
    parts = [_read(part, context.settings, f"document.{place}") for place, part in enumerate(body.document)]
    return identity, encoder.submit_continuation(parts, options, reader)


def _read(part: str | Picture, settings: ApiSettings, field: str) -> str | Image:
    """Raises: Problem 422 naming the part."""
    if isinstance(part, Picture):
        return read_image(part.image, settings, f"{field}.image")
    if part.startswith(IMAGE_URL):
        message = f'{field}: this is a picture, sent as a text; send it as {{"image": "data:image/…"}}'
        raise Problem(422, "bad_document", message, field=field)
    return check_text(part, settings, field)
