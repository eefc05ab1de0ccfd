"""What a page consists of once its markup is read: words and figures, in reading order."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Words:
    """A stretch of text between two figures or two edges of a block.

    Attributes:
        text: whitespace collapsed.
        block: number of the paragraph, cell or heading; stretches of one block belong together.
        level: 1 to 6 for a heading, else 0.
        line: of the page, from 1.
    """

    text: str
    block: int
    level: int = 0
    line: int = 0


@dataclass(slots=True)
class Figure:
    """An image in its place.

    Attributes:
        sources: references as they stand in the page, the one to prefer first.
        alt: the text that stands in for it, maybe empty.
        captions: texts of the figure around it.
        block, line: as of :class:`Words`.
    """

    sources: tuple[str, ...]
    alt: str
    block: int
    line: int = 0
    captions: list[str] = field(default_factory=list)


Item = Words | Figure


@dataclass(frozen=True, slots=True)
class Page:
    """A page read.

    Attributes:
        title: of the page as a whole, maybe empty.
        base: what its references are relative to, if not to the page.
        items: its content.
        problems: what of it could not be read.
    """

    title: str
    base: str
    items: tuple[Item, ...]
    problems: tuple[str, ...] = ()

    def block_texts(self) -> dict[int, str]:
        """The whole text of each block, whatever figures stand in it."""
        found: dict[int, list[str]] = {}
        for item in self.items:
            if isinstance(item, Words):
                found.setdefault(item.block, []).append(item.text)
        return {block: " ".join(texts) for block, texts in found.items()}
