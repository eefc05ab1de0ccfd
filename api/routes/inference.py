"""Embeddings and models in OpenAI's form, captions, continuations, and attention maps."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from sse_starlette.sse import EventSourceResponse

from api.core.errors import ERROR_RESPONSES, documented_responses
from api.deps import ReadSessionDep, StateDep, Viewer
from api.schemas.inference import (
    AttentionRequest,
    AttentionResponse,
    CaptionRequest,
    CaptionResponse,
    CaptionView,
    ContinuationRequest,
    ContinuationResponse,
    EmbeddingRequest,
    EmbeddingResponse,
    ModelList,
)
from api.services.encoders import list_models
from api.services.inference import attend, caption, continue_document, embed

router = APIRouter(prefix="/v1", tags=["inference"], responses=ERROR_RESPONSES)
STREAM_RESPONSES = documented_responses(
    "application/json",
    "text/event-stream",
    description="The texts; with `stream` events: `piece` {index, piece}, `done` with a whole text, "
    "`error` {error, index?}",
)


@router.get("/models", summary="List models")
def models(_: Viewer, session: ReadSessionDep) -> ModelList:
    """The encoders as OpenAI's API lists models: each ``id`` is what ``model`` of the other calls takes."""
    return ModelList(data=list_models(session))


@router.post("/embeddings", summary="Create embeddings", response_model=EmbeddingResponse)
async def embeddings(body: EmbeddingRequest, _: Viewer, state: StateDep, session: ReadSessionDep) -> JSONResponse:
    """L2-normalised vectors of texts and images in one space. ``base64`` is little-endian float32."""
    return await embed(state, session, body)


@router.post("/captions", summary="Create captions", response_model=CaptionResponse, responses=STREAM_RESPONSES)
async def captions(body: CaptionRequest, _: Viewer, state: StateDep, session: ReadSessionDep) -> Any:
    """Generated captions of the images; with ``stream`` piece by piece."""
    texts, consumers = await caption(state, session, body)
    if body.stream:
        return EventSourceResponse(consumers.events(texts, lambda index, text: {"index": index, "caption": text}))
    data = [CaptionView(index=index, caption=text) for index, text in enumerate(await consumers.wait_all(texts))]
    return CaptionResponse(model=body.model, data=data)


@router.post(
    "/continuations", summary="Continue document", response_model=ContinuationResponse, responses=STREAM_RESPONSES
)
async def continuations(body: ContinuationRequest, _: Viewer, state: StateDep, session: ReadSessionDep) -> Any:
    """Text generated after a document, which is read as in training; with ``stream`` piece by piece."""
    text, consumers = await continue_document(state, session, body)
    if body.stream:
        return EventSourceResponse(consumers.events([text], lambda index, text: {"index": index, "text": text}))
    return ContinuationResponse(model=body.model, text=(await consumers.wait_all([text]))[0])


@router.post(
    "/attention", summary="Get attention maps", response_model=AttentionResponse, response_model_exclude_none=True
)
async def attention(body: AttentionRequest, _: Viewer, state: StateDep, session: ReadSessionDep) -> JSONResponse:
    """Weights of the attentive pooling, by which patches are mixed into an image's vector."""
    return await attend(state, session, body)
