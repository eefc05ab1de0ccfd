"""Answers that are made in the thread of their endpoint, and how the description tells of those that are no JSON."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from anyio import CapacityLimiter, to_thread
from fastapi import Response
from pydantic import BaseModel

PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp")
Responses = dict[int | str, dict[str, Any]]


def sends(*media_types: str, status: int = 200, words: str = "Successful Response") -> Responses:
    """For a route's ``responses``: an answer of one of these media types. Several are joined with ``|``."""
    return {status: {"description": words, "content": {name: {} for name in media_types}}}


def json_of(model: BaseModel) -> Response:
    """A finished answer: nothing of it is left for the event loop to do."""
    return Response(model.model_dump_json(by_alias=True), media_type="application/json")


async def chunks_in(lane: CapacityLimiter, chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The chunks of a long answer, each made in one of the ``lane``'s threads."""
    while (chunk := await to_thread.run_sync(next, chunks, None, limiter=lane)) is not None:
        yield chunk
