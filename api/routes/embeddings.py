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

from api.core.errors import ERROR_RESPONSES, Problem
from api.core.state import AppState
from api.deps import ReadSessionDep, StateDep, Viewer
from api.schemas.base import Reference
from api.services.encoders import open_encoder
from api.services.inference import image_urls, submit_embeddings
from api.services.media import EmbeddingInput, RequestImages, check_count, read_images

if TYPE_CHECKING:
    from lcl_core.serving.batched_engine import BatchedEngine

router = APIRouter(prefix="/v1/embeddings", tags=["inference"], responses=ERROR_RESPONSES)


class EmbeddingRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: Reference = Field(description="id or name of an encoder")
    input: EmbeddingInput | list[EmbeddingInput] = Field(
        description="texts, and pictures as data URLs", examples=["a red bird"]
    )
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1, description="numbers in a vector; only as many as the encoder gives")
    user: str | None = Field(None, max_length=200, description="accepted for OpenAI's clients; not kept")


class EmbeddingView(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class TokenUsageView(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(BaseModel):
    object: Literal["list"]
    data: list[EmbeddingView]
    model: str
    usage: TokenUsageView


@router.post("", response_model=EmbeddingResponse)
async def embeddings(
    body: EmbeddingRequest, caller: Viewer, context: StateDep, session: ReadSessionDep
) -> JSONResponse:
    """L2-normalised vectors; of texts and pictures in one space. ``base64`` is little-endian float32."""
    from lcl_core.serving.dynamic_batcher import gather_results  # numpy: only when an encoder is asked

    items = body.input if isinstance(body.input, list) else [body.input]
    urls = image_urls(items)
    begin = partial(_begin, context, session, body, items, len(urls))

    def read(encoder: BatchedEngine, identity: str, images: RequestImages) -> tuple[str, list[Future[Any]], int]:
        return identity, *submit_embeddings(encoder, items, images, context.settings)

    identity, submitted, tokens = await read_images(context, caller.owner, urls, begin, read)
    vectors = await gather_results(submitted)
    return await to_thread.run_sync(
        _embedding_response, identity, vectors, tokens, body.encoding_format, limiter=context.inferring
    )


def _begin(
    context: AppState, session: Session, body: EmbeddingRequest, items: Sequence[EmbeddingInput], images: int
) -> tuple[BatchedEngine, str]:
    identity, encoder = open_encoder(context, session, body.model)
    if body.dimensions not in (None, encoder.dim):
        message = f"this encoder's vectors have {encoder.dim} numbers, and it has not learnt to do with fewer"
        raise Problem(422, "bad_dimensions", f"{message}; leave dimensions out", field="dimensions")
    check_count(items, context.settings, "input")
    encoder.check_room(images)
    return encoder, identity


def _embedding_response(identity: str, vectors: list[Any], tokens: int, form: str) -> JSONResponse:
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
