"""Where an encoder looks: how much each patch of a picture weighs in its vector."""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from anyio import to_thread
from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from api.core.errors import ERROR_RESPONSES
from api.core.state import AppState
from api.deps import ReadSessionDep, StateDep, Viewer
from api.schemas.base import Reference
from api.services.encoders import open_encoder
from api.services.media import Content, RequestImages, check_count, read_images

if TYPE_CHECKING:
    from lcl_core.serving.batched_engine import BatchedEngine

router = APIRouter(prefix="/v1/attention", tags=["inference"], responses=ERROR_RESPONSES)
DIGITS = 6


class AttentionRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: Reference = Field(description="id or name of an encoder")
    images: list[Content] = Field(description="pictures as data URLs")
    heads: bool = Field(True, description="also the weights of each head")


class AttentionView(BaseModel):
    """Rows of patches from the top, each from the left; all weights of a head sum to 1."""

    index: int
    grid: list[int] = Field(description="rows and columns of patches")
    box: list[float] = Field(description="the part of the picture that is seen: left, top, right, bottom, 0 to 1")
    mean: list[list[float]] = Field(description="mean of the heads")
    heads: list[list[list[float]]] | None = None


class AttentionResponse(BaseModel):
    object: Literal["list"]
    model: str
    data: list[AttentionView]


@router.post("", response_model=AttentionResponse, response_model_exclude_none=True)
async def attention(body: AttentionRequest, caller: Viewer, context: StateDep, session: ReadSessionDep) -> JSONResponse:
    """Weights of the attentive pooling, by which patches are mixed into a picture's vector."""
    from lcl_core.serving.dynamic_batcher import gather_results  # numpy: only when an encoder is asked

    urls = {f"images.{place}": url for place, url in enumerate(body.images)}
    begin = partial(_begin, context, session, body)
    identity, boxes, submitted = await read_images(context, caller.owner, urls, begin, _read)
    weights = await gather_results(submitted)
    return await to_thread.run_sync(
        _attention_response, identity, boxes, weights, body.heads, limiter=context.inferring
    )


def _begin(context: AppState, session: Session, body: AttentionRequest) -> tuple[BatchedEngine, str]:
    check_count(body.images, context.settings, "images")
    identity, encoder = open_encoder(context, session, body.model)
    encoder.check_room(len(body.images))
    return encoder, identity


def _read(
    encoder: BatchedEngine, identity: str, images: RequestImages
) -> tuple[str, list[list[float]], list[Future[Any]]]:
    boxes, prepared = [], []
    for field in images:
        image = images.read(field)
        boxes.append(list(encoder.crop_box(image)))
        prepared.append(encoder.prepare(image))
        del image  # before the next one is decoded
    return identity, boxes, encoder.submit_attention(prepared)


def _attention_response(identity: str, boxes: list[list[float]], weights: list[Any], with_heads: bool) -> JSONResponse:
    data: list[dict[str, Any]] = []
    for index, (box, each) in enumerate(zip(boxes, weights, strict=True)):
        heads = each.astype("f8")
        row = {"index": index, "grid": list(heads.shape[1:]), "box": [round(edge, DIGITS) for edge in box]}
        row["mean"] = heads.mean(0).round(DIGITS).tolist()
        data.append(row | ({"heads": heads.round(DIGITS).tolist()} if with_heads else {}))
    return JSONResponse({"object": "list", "data": data, "model": identity})
