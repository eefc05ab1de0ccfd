"""Who reads a text while it is written. Knows no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


def _nobody(_: str) -> None:
    """Waits for the whole text."""


@dataclass(slots=True, eq=False)
class Reader:
    """Is told each piece of text, in the thread that writes it.

    Attributes:
        hear: takes a piece; must not block. One that raises has left.
        has_left: set by any thread: nobody waits for the text any more, so that it is not written to its end.
    """

    hear: Callable[[str], None] = _nobody
    has_left: bool = False

    def tell(self, piece: str) -> None:
        if piece and not self.has_left:
            try:
                self.hear(piece)
            except Exception:  # whatever is wrong with a reader, others are written for beside it
                self.has_left = True
