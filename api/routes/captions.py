"""Captions of pictures."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from api.deps import ContextDep, ReaderDep, Viewer
from api.encoders import open_encoder
from api.media import Content, check_count, check_text, read_image
from api.models import Reference

router = APIRouter(prefix="/v1/captions", tags=["inference"])


class CaptionRequest(BaseModel):
    """Greedy unless ``num_beams`` or ``top_p`` says otherwise."""

    model_config = ConfigDict(extra="forbid")

    model: Reference = Field(description="id or name of an encoder")
    images: list[Content] = Field(description="pictures as data URLs")
    prompt: str = Field("", max_length=10_000, description="text that the caption continues")
    max_new_tokens: int = Field(24, ge=1, le=256)
    num_beams: int = Field(1, ge=1, le=16)
    top_p: float | None = Field(None, gt=0, le=1)
    temperature: float = Field(1.0, ge=0.001, le=10)
    seed: int = Field(0, ge=0, lt=2**31)


class Caption(BaseModel):
    index: int
    caption: str


class CaptionResponse(BaseModel):
    object: Literal["list"] = "list"
    model: str
    data: list[Caption]


@router.post("")
def captions(body: CaptionRequest, _: Viewer, context: ContextDep, session: ReaderDep) -> CaptionResponse:
    identity, encoder = open_encoder(context, session, body.model)
    settings = context.settings
    check_count(body.images, settings, "images")
    check_text(body.prompt, settings, "prompt")
    images = [read_image(url, settings, f"images.{place}") for place, url in enumerate(body.images)]
    found = encoder.caption(images, **body.model_dump(exclude={"model", "images"}))
    return CaptionResponse(
        model=identity, data=[Caption(index=place, caption=text) for place, text in enumerate(found)]
    )
