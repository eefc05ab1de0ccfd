"""Captions of one picture by several ways of decoding, which grow side by side while somebody looks.

Gradio's own streams need its queue, which the page does without (``ui.common``): threads read what the service writes,
and a clock of the page asks what there is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import closing
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

from api.client import ApiError, Client
from ui.common import UNREADABLE, refused
from ui.html import esc, heading, problem

Decodings = Mapping[str, dict[str, Any]]


@dataclass(slots=True)
class _Way:
    """One way's caption; ``took`` is None while it is written."""

    hint: str
    words: str = ""
    took: float | None = None
    error: ApiError | None = None

    def draw(self, name: str) -> str:
        if self.error is not None:
            return problem(self.error.message, name)
        caret = '<i class="lcl-caret" aria-hidden="true"></i>' if self.took is None else ""
        said = f"{esc(self.words)}{caret}" if self.words or caret else "<em>no words</em>"
        ended = "writing …" if self.took is None else f"{1000 * self.took:.0f} ms"
        return (
            f'<article class="lcl-caption"><h3>{esc(name)}</h3><p>{esc(self.hint)}</p>'
            f"<blockquote>{said}</blockquote><footer>{ended}</footer></article>"
        )


class Sheet:
    """Begins to write when it is made.

    Args:
        decodings: name of each way → what the service is asked for.
        hints: name of each way → a line about it.
    """

    def __init__(
        self, client: Client, encoder: str, image: bytes, decodings: Decodings, hints: Mapping[str, str]
    ) -> None:
        self._ways = {name: _Way(hints[name]) for name in decodings}
        self._is_left = False
        self._threads = [
            # with the visitor's key, which the context of the event knows
            threading.Thread(
                target=copy_context().run, args=(self._write, way, client, encoder, image, decodings[name]), daemon=True
            )
            for name, way in self._ways.items()
        ]
        for thread in self._threads:
            thread.start()

    @property
    def is_done(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)

    def leave(self) -> None:
        """Nobody looks any more: the service need not write on."""
        self._is_left = True

    def wait(self, seconds: float) -> None:
        """Until it is done, at most so long."""
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def draw(self) -> str:
        """What there is, one card a way; or the one reason why the picture has no caption."""
        busy = "false" if self.is_done else "true"
        ways = dict(self._ways)
        no_picture = next((way.error for way in ways.values() if way.error and way.error.code == UNREADABLE), None)
        if no_picture is not None:  # which no way can mend
            return refused(no_picture, "No caption can be written")
        cards = "".join(way.draw(name) for name, way in ways.items())
        return heading("Captions", "The same picture, decoded in different ways.") + (
            f'<div class="lcl-captions" role="status" aria-busy="{busy}">{cards}</div>'
        )

    def _write(self, way: _Way, client: Client, encoder: str, image: bytes, decoding: dict[str, Any]) -> None:
        start = time.perf_counter()
        try:
            with closing(client.stream_captions(encoder, [image], **decoding)) as pieces:
                for piece in pieces:
                    way.words = piece.text if piece.whole else way.words + piece.text
                    if self._is_left:  # hanging up ends the writing
                        break
        except ApiError as error:
            way.error = error
        finally:
            way.took = time.perf_counter() - start
