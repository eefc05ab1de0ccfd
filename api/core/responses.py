"""Responses made in threads, responses that release resources at their end, and their OpenAPI descriptions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

from anyio import CancelScope, CapacityLimiter, to_thread
from fastapi import Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

IMAGE_MEDIA_TYPES = ("image/png", "image/jpeg", "image/gif", "image/webp")
ResponseDocs = dict[int | str, dict[str, Any]]


def documented_responses(*media_types: str, status: int = 200, words: str = "Successful Response") -> ResponseDocs:
    """For a route's ``responses``: an answer of one of these media types. Several are joined with ``|``."""
    return {status: {"description": words, "content": {name: {} for name in media_types}}}


def json_response(model: BaseModel) -> Response:
    """A finished answer: nothing of it is left for the event loop to do."""
    return Response(model.model_dump_json(by_alias=True), media_type="application/json")


async def stream_in_threads(lane: CapacityLimiter, chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The chunks of a long answer, each made in one of the ``lane``'s threads."""
    while (chunk := await to_thread.run_sync(next, chunks, None, limiter=lane)) is not None:
        yield chunk


class CleanupResponse(StreamingResponse):
    """Lets go when the last byte is out, or when the reader is gone.

    A generator alone would not do: the framework leaves it where it stood when its reader went, until the garbage
    collector comes by.
    """

    def __init__(
        self, chunks: AsyncIterator[bytes], holds: ExitStack, *, media_type: str, headers: Mapping[str, str]
    ) -> None:
        super().__init__(chunks, media_type=media_type, headers=headers)
        self._holds = holds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with CancelScope(shield=True):
                await to_thread.run_sync(self._holds.close, limiter=CapacityLimiter(1))
