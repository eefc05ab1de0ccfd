"""Embeddings of texts and pictures, in OpenAI's form."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from anyio import to_thread
from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from api.context import Context
from api.deps import ContextDep, ReaderDep, Viewer
from api.encoders import open_encoder
from api.errors import REFUSALS, Problem
from api.image_reading import RequestImages, read_images
from api.media import Input, check_count
from api.models import Reference
from api.vectors import image_urls, submit

if TYPE_CHECKING:
    from lcl_core.serving.batching_session import BatchingSession

router = APIRouter(prefix="/v1/embeddings", tags=["inference"], responses=REFUSALS)


class EmbeddingRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: Reference = Field(description="id or name of an encoder")
    input: Input | list[Input] = Field(description="texts, and pictures as data URLs", examples=["a red bird"])
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1, description="numbers in a vector; only as many as the encoder gives")
    user: str | None = Field(None, max_length=200, description="accepted for OpenAI's clients; not kept")


class Embedding(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(BaseModel):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


@router.post("", response_model=EmbeddingResponse)
async def embeddings(body: EmbeddingRequest, caller: Viewer, context: ContextDep, session: ReaderDep) -> JSONResponse:
    """L2-normalised vectors; of texts and pictures in one space. ``base64`` is little-endian float32."""
    from lcl_core.serving.futures import gather  # numpy: only when an encoder is asked

    items = body.input if isinstance(body.input, list) else [body.input]
    urls = image_urls(items)
    begin = partial(_begin, context, session, body, items, len(urls))

    def read(encoder: BatchingSession, identity: str, images: RequestImages) -> tuple[str, list[Future[Any]], int]:
        return identity, *submit(encoder, items, images, context.settings)

    identity, submitted, tokens = await read_images(context, caller.owner, urls, begin, read)
    vectors = await gather(submitted)
    return await to_thread.run_sync(_answer, identity, vectors, tokens, body.encoding_format, limiter=context.inferring)


def _begin(
    context: Context, session: Session, body: EmbeddingRequest, items: Sequence[Input], images: int
) -> tuple[BatchingSession, str]:
    identity, encoder = open_encoder(context, session, body.model)
    if body.dimensions not in (None, encoder.dim):
        message = f"this encoder's vectors have {encoder.dim} numbers, and it has not learnt to do with fewer"
        raise Problem(422, "bad_dimensions", f"{message}; leave dimensions out", field="dimensions")
    check_count(items, context.settings, "input")
    encoder.check_room(images)
    return encoder, identity


def _answer(identity: str, vectors: list[Any], tokens: int, form: str) -> JSONResponse:
    data: list[dict[str, Any]] = [
        {"object": "embedding", "index": index, "embedding": _encoded(vector, form)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return JSONResponse({"object": "list", "data": data, "model": identity, "usage": usage})


def _encoded(vector: Any, form: str) -> list[float] | str:
    if form == "float":
        return vector.tolist()
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
