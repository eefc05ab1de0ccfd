"""Calls about texts that go on, and texts that come piece by piece."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from api.client.errors import ApiError
from api.client.inference import data_url
from api.client.runs import parse_events
from api.client.transport import Transport

Json = dict[str, Any]
Pieces = Generator["Piece", None, None]  # closing it ends the writing
SILENCE_SECONDS = 60.0  # the service pings every 15 s


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text while it is written.

    Attributes:
        index: of the picture in the request.
        text: what comes next; of the last piece of a text, which is ``whole``, all of it once more.
    """

    index: int
    text: str
    whole: bool = False


class WritingCalls(Transport):
    def stream_captions(self, encoder: str, images: Sequence[bytes], **decoding: Any) -> Pieces:
        """Captions as they are written; ``decoding`` as ``caption``'s.

        Raises: ApiError, also on the way.
        """
        body = {"model": encoder, "images": [data_url(image) for image in images], **decoding}
        return self._pieces("/v1/captions", body, len(images))

    def continue_document(self, encoder: str, document: Sequence[str | bytes], **decoding: Any) -> str:
        """The text that comes after texts and (bytes) pictures.

        ``decoding``: max_new_tokens, num_beams, top_p, temperature, seed.
        """
        return self.post("/v1/continuations", _document(encoder, document, decoding), repeatable=True)["text"]

    def stream_continuation(self, encoder: str, document: Sequence[str | bytes], **decoding: Any) -> Pieces:
        """``continue_document`` as it is written. Raises: ApiError."""
        return self._pieces("/v1/continuations", _document(encoder, document, decoding), 1)

    def _pieces(self, path: str, body: Json, missing: int) -> Pieces:
        timeout = httpx.Timeout(SILENCE_SECONDS, connect=10.0)
        with self.stream(path, "POST", json={**body, "stream": True}, timeout=timeout) as response:
            for event in parse_events(response.iter_lines()):
                piece = _piece(event, response.status_code)
                missing -= piece.whole
                yield piece
        if missing:
            raise ApiError(0, "unreachable", "the stream broke off before the text was complete; ask again")


def _document(encoder: str, document: Sequence[str | bytes], decoding: Json) -> Json:
    parts = [part if isinstance(part, str) else {"image": data_url(part)} for part in document]
    return {"model": encoder, "document": parts, **decoding}


def _piece(event: Json, status: int) -> Piece:
    """Raises: ApiError for an error on the way, with the status that the answer had begun with."""
    data = event["data"]
    if event["event"] == "error":
        facts = data["error"]
        raise ApiError(status, facts["code"], facts["message"], facts.get("field"))
    if event["event"] == "piece":
        return Piece(data["index"], data["piece"])
    return Piece(data["index"], data["caption"] if "caption" in data else data["text"], whole=True)
