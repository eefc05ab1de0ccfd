"""The content of an HTML page in reading order.

The markup is met as a stream of events and no tree is built: memory stays with the content, lines are known, and
neither deep nesting nor an element with a million attributes costs more than its length.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import chain
from typing import Any

from lcl_core.data.readers.pages.items import Figure, Item, Page, Words
from lcl_core.data.readers.pages.tags import BLOCKS, CAPTIONS, FIGURES, HEADINGS, SPACES, is_boilerplate, tokens
from lcl_core.data.readers.values import BadValue
from lcl_core.errors import UserError

MAX_DEPTH = 10_000
MAX_FIGURES = 10_000
LINE_ATTRIBUTE = "data-source-line"  # the line in the Markdown that a page was made from
_BLOCK, _CAPTION, _FIGURE, _REGION = 8, 16, 32, 64  # above the three bits of a heading's level
_SELF_CLOSED = re.compile(r"<(script|style|title|textarea|iframe|a|div|span|p|i|b|em|td|th|li)\b([^<>]*)/>", re.I)
_XHTML = re.compile(r"\s*<\?xml\b|\s*<!DOCTYPE[^>]{0,200}\bXHTML\b", re.I)
_LAZY = ("data-src", "data-original", "data-lazy-src", "data-url")


def read_page(text: str, *, numbered: bool = True) -> Page:
    """Parse HTML of any quality.

    Args:
        numbered: are the lines of ``text`` those that the user knows?

    Raises:
        BadValue: nested deeper than ``MAX_DEPTH``, or more figures than ``MAX_FIGURES``.
        UserError: ``missing_extra`` without lxml.
    """
    etree = _lxml()
    if _XHTML.match(text[:1000]):
        text = _SELF_CLOSED.sub(r"<\1\2></\1>", text)  # which HTML would take for open ones
    outline = Outline()
    # the text is decoded by now: a declared encoding must not be heeded again
    parser = etree.HTMLParser(target=outline, encoding="utf-8", huge_tree=False, no_network=True)
    try:
        for line, part in enumerate(text.encode("utf-8", "replace").splitlines(keepends=True), start=1):
            outline.line = line if numbered else 0
            parser.feed(part)
        page: Page = parser.close()
    except etree.LxmlError:  # the file is empty, or broken beyond what the parser mends: what came before stands
        page = outline.close()
    return page


def _lxml() -> Any:
    try:
        from lxml import etree
    except ImportError as error:
        raise UserError(
            'reading HTML needs lxml; install it with pip install "lcl[data]"', code="missing_extra"
        ) from error
    return etree


class Outline:
    """Receives lxml's events.

    Attributes:
        line: of the markup that comes next, set by who feeds it.
    """

    def __init__(self) -> None:
        self.line = 1
        self._items: list[Item] = []
        self._open: list[int] = []  # what each open element is, as flags
        self._skipped = 0  # depth inside an element that is no content
        self._text: list[str] = []
        self._text_line = 0
        self._figures = 0
        self._last: tuple[int, Figure | None] = (-1, None)  # the last figure, and its place among the items
        self._block = 0
        self._caption = 0  # depth of captions
        self._frames: list[tuple[int, list[str]]] = []  # each open figure: where its items start, its captions
        self._sets: list[str] = []  # srcset of the sources of a picture
        self._regions = _Regions()
        self._title: list[str] = []
        self._in_title = False
        self._base = ""

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        if len(self._open) + self._skipped >= MAX_DEPTH:
            raise BadValue(f"nested deeper than {MAX_DEPTH:,} elements")
        if self._skipped:
            self._skipped += 1
            return
        if is_boilerplate(tag, attributes, self._regions.in_article):
            # the page's own title, not that of a drawing
            self._in_title = tag == "title" and not self._title
            self._skipped = 1
            return
        flags = self._flags(tag, attributes)
        self._open.append(flags)
        if flags & _BLOCK:
            self._flush()
            self._block += 1
        elif tag in SPACES:
            self._text.append(" ")
        self._enter(tag, attributes, flags)

    def end(self, tag: str) -> None:
        if self._skipped:
            self._skipped -= 1
            self._in_title = False
            return
        if not self._open:
            return
        flags = self._open[-1]
        if flags & _BLOCK:
            self._flush()
            self._block += 1
        self._open.pop()
        if flags & _CAPTION:
            self._caption -= 1
        if flags & _FIGURE:
            self._settle(*self._frames.pop())
        if flags & _REGION:
            self._regions.leave(len(self._items))
        if tag == "picture":
            self._sets.clear()

    def data(self, text: str) -> None:
        if not self._skipped:
            if not self._text:
                if text.isspace():
                    return
                self._text_line = self.line
            self._text.append(text)
        elif self._in_title:
            self._title.append(text)

    def close(self) -> Page:
        self._flush()
        while self._frames:
            self._settle(*self._frames.pop())
        items = self._regions.content(self._items)
        return Page(_collapsed("".join(self._title)), self._base, tuple(items))

    def _flags(self, tag: str, attributes: Mapping[str, str]) -> int:
        flags = _BLOCK | HEADINGS.get(tag, 0) if tag in BLOCKS else 0
        classes = tokens(attributes, "class") if attributes else []
        if tag == "figure" or (flags and not FIGURES.isdisjoint(classes)):
            flags |= _FIGURE
        titled = tag == "p" and "title" in classes and bool(self._open) and bool(self._open[-1] & _FIGURE)
        if tag == "figcaption" or titled or (flags and not CAPTIONS.isdisjoint(classes)):
            flags |= _CAPTION
        return flags

    def _enter(self, tag: str, attributes: Mapping[str, str], flags: int) -> None:
        """What an element begins besides a block."""
        if flags & _CAPTION:
            self._caption += 1
        if flags & _FIGURE:
            self._frames.append((len(self._items), []))
        if tag in ("main", "article") or "main" in tokens(attributes, "role"):
            self._open[-1] |= _REGION
            kind = "article" if tag == "article" and "role" not in attributes else "main"
            self._regions.enter(kind, len(self._items))
        elif tag == "img":
            self._picture(attributes)
        elif tag == "source":
            self._sets.append(attributes.get("srcset", ""))
        elif tag == "base" and not self._base:
            self._base = attributes.get("href", "")

    def _picture(self, attributes: Mapping[str, str]) -> None:
        self._flush()
        self._figures += 1
        if self._figures > MAX_FIGURES:
            raise BadValue(f"more than {MAX_FIGURES:,} images on one page")
        sources = _sources(attributes, self._sets)
        stated = attributes.get(LINE_ATTRIBUTE, "")
        line = int(stated) if stated.isascii() and stated.isdigit() and len(stated) < 10 else self.line
        figure = Figure(sources, _collapsed(attributes.get("alt", "")), self._block, line)
        self._last = (len(self._items), figure)
        self._items.append(figure)

    def _flush(self) -> None:
        text = _collapsed("".join(self._text))
        self._text.clear()
        level = self._open[-1] & 7 if self._open else 0
        level = level or next((flags & 7 for flags in reversed(self._open[-4:]) if flags & 7), 0)
        if level:
            text = text.rstrip("¶🔗 ")
        if not any(map(str.isalnum, text)):
            return
        if self._caption and self._frames:
            self._frames[-1][1].append(text)
        else:
            self._items.append(Words(text, self._block, level, self._text_line))

    def _settle(self, start: int, captions: list[str]) -> None:
        """Captions belong right after the last image of their figure, wherever they stood in it."""
        place, figure = self._last
        if figure is not None and place >= start:
            figure.captions += captions
        elif self._frames:
            self._frames[-1][1].extend(captions)
        else:
            for caption in captions:
                self._block += 1
                self._items.append(Words(caption, self._block, 0, self.line))
        self._block += 1


class _Regions:
    """Where the content proper stands: inside ``main``, else inside a page's only article, else everywhere."""

    def __init__(self) -> None:
        self._open: list[tuple[str, int]] = []
        self._closed: dict[str, list[tuple[int, int]]] = {"main": [], "article": []}

    @property
    def in_article(self) -> bool:
        return bool(self._open)

    def enter(self, kind: str, start: int) -> None:
        self._open.append((kind, start))

    def leave(self, end: int) -> None:
        kind, start = self._open.pop()
        # of nested ones the outermost counts
        if kind not in (outer for outer, _ in self._open):
            self._closed[kind].append((start, end))

    def content(self, items: list[Item]) -> list[Item]:
        while self._open:
            self.leave(len(items))
        for kind, ranges in self._closed.items():
            inside = list(chain.from_iterable(items[start:end] for start, end in ranges))
            if _length(inside) and (kind == "main" or (len(ranges) == 1 and 2 * _length(inside) >= _length(items))):
                return inside
        return items


def _length(items: list[Item]) -> int:
    return sum(len(item.text) if isinstance(item, Words) else 1 for item in items)


def _collapsed(text: str) -> str:
    return " ".join(text.split())


def _sources(attributes: Mapping[str, str], sets: list[str]) -> tuple[str, ...]:
    """References to one picture, the best first; where pages load lazily, ``src`` is only a placeholder."""
    plain = attributes.get("src", "")
    lazy = [attributes[name] for name in _LAZY if name in attributes]
    several = [*_by_size(attributes.get("srcset", "")), *_by_size(attributes.get("data-srcset", ""))]
    others = list(chain.from_iterable(map(_by_size, sets)))
    placeholder = plain.lstrip().lower().startswith("data:") and (lazy or several or others)
    ordered = [*lazy, *([] if placeholder else [plain]), *several, *others, *([plain] if placeholder else [])]
    return tuple(dict.fromkeys(source.strip() for source in ordered if source.strip()))


def _by_size(srcset: str) -> list[str]:
    """``a.png 1x, b.png 2x`` as references, the largest first. Data URLs, which hold commas, are left out."""
    found = []
    for candidate in re.split(r",\s+|,$", srcset.strip()[:100_000]):
        reference, _, size = candidate.strip().partition(" ")
        number = re.match(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", size.strip())
        if reference and not reference.lower().startswith("data:"):
            found.append((float(number[0]) if number else 1.0, reference))
    return [reference for _, reference in sorted(found, key=lambda pair: -pair[0])]
