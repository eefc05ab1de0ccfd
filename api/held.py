"""An answer that holds something until it is over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack

from anyio import CancelScope, CapacityLimiter, to_thread
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class HeldResponse(StreamingResponse):
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
