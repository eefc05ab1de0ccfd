"""Embeddings of texts and pictures, in OpenAI's form."""

from __future__ import annotations

import base64
from typing import Any, Literal

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from api.deps import ContextDep, ReaderDep, Viewer
from api.media import Input
from api.models import Reference
from api.vectors import embed
from lcl_core.runs import store

router = APIRouter(prefix="/v1/embeddings", tags=["inference"])


class EmbeddingRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: Reference = Field(description="id or name of an encoder")
    input: Input | list[Input] = Field(description="texts, and pictures as data URLs", examples=["a red bird"])
    encoding_format: Literal["float", "base64"] = "float"
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
def embeddings(body: EmbeddingRequest, _: Viewer, context: ContextDep, session: ReaderDep) -> JSONResponse:
    """L2-normalised vectors; of texts and pictures in one space. ``base64`` is little-endian float32."""
    row = store.get_encoder(session, body.model)
    directory = context.supply.folder(session, row.path)
    session.close()  # a connection is not held while the model runs
    encoder = context.inference().encoder(directory)
    items = body.input if isinstance(body.input, list) else [body.input]
    vectors, tokens = embed(encoder, items, context.settings)
    data: list[dict[str, Any]] = [
        {"object": "embedding", "index": index, "embedding": _encoded(vector, body.encoding_format)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return JSONResponse({"object": "list", "data": data, "model": row.id, "usage": usage})


def _encoded(vector: Any, form: str) -> list[float] | str:
    if form == "float":
        return vector.tolist()
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
