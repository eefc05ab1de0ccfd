# Made from api/client/writing.py by `python -m api.client.derivation`: change that one.
"""Calls about texts that go on, and texts that come piece by piece."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import httpx

from api.client.aio.runs import parse_events
from api.client.aio.transport import AsyncTransport
from api.client.errors import ApiError
from api.client.inference import data_url
from api.client.writing import SILENCE_SECONDS, Json, Piece, _document, _piece

Pieces = AsyncGenerator["Piece"]  # closing it ends the writing


class AsyncWritingCalls(AsyncTransport):
    def stream_captions(self, encoder: str, images: Sequence[bytes], **decoding: Any) -> Pieces:
        """Captions as they are written; ``decoding`` as ``caption``'s.

        Raises: ApiError, also on the way.
        """
        body = {"model": encoder, "images": [data_url(image) for image in images], **decoding}
        return self._pieces("/v1/captions", body, len(images))

    async def continue_document(self, encoder: str, document: Sequence[str | bytes], **decoding: Any) -> str:
        """The text that comes after texts and (bytes) pictures.

        ``decoding``: max_new_tokens, num_beams, top_p, temperature, seed.
        """
        return (await self.post("/v1/continuations", _document(encoder, document, decoding), repeatable=True))["text"]

    def stream_continuation(self, encoder: str, document: Sequence[str | bytes], **decoding: Any) -> Pieces:
        """``continue_document`` as it is written. Raises: ApiError."""
        return self._pieces("/v1/continuations", _document(encoder, document, decoding), 1)

    async def _pieces(self, path: str, body: Json, missing: int) -> Pieces:
        timeout = httpx.Timeout(SILENCE_SECONDS, connect=10.0)
        async with self.stream(path, "POST", json={**body, "stream": True}, timeout=timeout) as response:
            async with aclosing(parse_events(response.aiter_lines())) as pieces:
                async for event in pieces:
                    piece = _piece(event, response.status_code)
                    missing -= piece.whole
                    yield piece
        if missing:
            raise ApiError(0, "unreachable", "the stream broke off before the text was complete; ask again")
