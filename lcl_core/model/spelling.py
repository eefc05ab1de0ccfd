"""A text as it is decoded, piece by piece."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lcl_core.model.processor import LCLProcessor

_BROKEN = "\N{REPLACEMENT CHARACTER}"  # how bytes read whose character is not whole yet
_WORD_END = "</w>"  # becomes a space once it is whole


class Spelling:
    """Tokens in, pieces of text out, which together are what ``LCLProcessor.decode`` gives for all tokens.

    A token may be a part of a character; nothing is told before it is settled.
    """

    def __init__(self, processor: LCLProcessor) -> None:
        specials = processor.tokenizer.specials
        self._decode = processor.decode
        self._ends = (specials.eot, specials.soi)
        self._ids: list[int] = []
        self._told = 0
        self.ended = False

    @property
    def text(self) -> str:
        """All that has been read."""
        return self._decode(self._ids)

    def add(self, token: int) -> str:
        """Read a token; the text that has become certain by it, maybe none. ``ended`` is true after an end."""
        if token in self._ends:
            self.ended = True
            return ""
        self._ids.append(token)
        return self._tell(_settled(self.text))

    def rest(self) -> str:
        """What has not been told: no token will come any more."""
        return self._tell(self.text)

    def _tell(self, text: str) -> str:
        piece = text[self._told :]
        self._told = max(self._told, len(text))
        return piece


def _settled(text: str) -> str:
    """Without what later tokens may change: a broken character, the beginning of a word's end, a space at the end."""
    kept = text.rstrip(_BROKEN)
    begun = next((n for n in range(len(_WORD_END) - 1, 0, -1) if kept.endswith(_WORD_END[:n])), 0)
    return kept[: len(kept) - begun].rstrip()
