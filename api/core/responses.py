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

ResponseDocs = dict[int | str, dict[str, Any]]


def documented_responses(
    *media_types: str, status: int = 200, description: str = "Successful Response"
) -> ResponseDocs:
    """A route's ``responses`` for a body of one of these media types. Several are joined with ``|``."""
    return {status: {"description": description, "content": {name: {} for name in media_types}}}


def json_response(model: BaseModel) -> Response:
    """A serialised response, so that the event loop has nothing left to serialise."""
    return Response(model.model_dump_json(by_alias=True), media_type="application/json")


async def stream_in_threads(threads: CapacityLimiter, chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The chunks, each made in one of these threads."""
    while (chunk := await to_thread.run_sync(next, chunks, None, limiter=threads)) is not None:
        yield chunk


class CleanupResponse(StreamingResponse):
    """Closes ``resources`` after the last byte, or when the client has disconnected.

    A generator's ``finally`` is not enough: after a disconnect the framework leaves it to the garbage collector.
    """

    def __init__(
        self, chunks: AsyncIterator[bytes], resources: ExitStack, *, media_type: str, headers: Mapping[str, str]
    ) -> None:
        super().__init__(chunks, media_type=media_type, headers=headers)
        self._resources = resources

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with CancelScope(shield=True):
                await to_thread.run_sync(self._resources.close, limiter=CapacityLimiter(1))
