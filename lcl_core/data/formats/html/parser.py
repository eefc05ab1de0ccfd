"""The content of an HTML page in reading order: texts and images, without navigation, menus and hidden parts.

lxml parses the markup as a stream of events and no tree is built: memory grows with the content, line numbers are
known, and neither deep nesting nor an element with a million attributes costs more than its length.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain

from lcl_core.common.errors import import_optional
from lcl_core.data.jsonl import BadValue

_DECLARED = re.compile(
    rb"""<(?:meta\b[^>]{0,500}?charset|\?xml\b[^>]{0,200}?encoding)\s*=\s*["']?\s*([\w.:-]{2,40})""", re.I
)
_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
# Python's registry also has codecs that are no encodings of text (hex, zlib) or that run wild (idna, utf-7)
_ENCODINGS = re.compile(r"utf-8|iso8859-|cp\d+|koi8|gb|big5|shift_jis|euc_|mac-")
_WIDER = {"iso8859-1": "cp1252", "ascii": "cp1252"}  # as browsers read them


def decode_page(data: bytes) -> str:
    """By byte order mark, else as ``<meta charset>`` says, else UTF-8; what does not decode becomes U+FFFD."""
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    name = "utf-8"
    if found := _DECLARED.search(data[:4096]):
        with suppress(LookupError, UnicodeDecodeError):
            name = codecs.lookup(found[1].decode("ascii")).name
    name = _WIDER.get(name, name)
    return data.decode(name if _ENCODINGS.match(name) else "utf-8", "replace")


@dataclass(slots=True)
class TextItem:
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
class ImageItem:
    """An image at its position on the page.

    Attributes:
        sources: references as written in the page, the best first.
        alt: alternative text, maybe empty.
        captions: texts of the figure around it.
        block, line: as of :class:`Words`.
    """

    sources: tuple[str, ...]
    alt: str
    block: int
    line: int = 0
    captions: list[str] = field(default_factory=list)


PageItem = TextItem | ImageItem


@dataclass(frozen=True, slots=True)
class HtmlPage:
    """A page read.

    Attributes:
        title: of the page as a whole, maybe empty.
        base: what its references are relative to, if not to the page.
        items: its content.
        problems: what of it could not be read.
    """

    title: str
    base: str
    items: tuple[PageItem, ...]
    problems: tuple[str, ...] = ()

    def block_texts(self) -> dict[int, str]:
        """The whole text of each block, across its images."""
        found: dict[int, list[str]] = {}
        for item in self.items:
            if isinstance(item, TextItem):
                found.setdefault(item.block, []).append(item.text)
        return {block: " ".join(texts) for block, texts in found.items()}


def _word_set(words: str) -> frozenset[str]:
    return frozenset(words.split())


BLOCK_TAGS = _word_set(
    "address article aside blockquote body caption center dd details dialog dir div dl dt fieldset figcaption figure "
    "footer form frameset h1 h2 h3 h4 h5 h6 header hgroup hr html legend li main menu nav ol p pre section summary "
    "table tbody tfoot thead tr ul"
)
HEADING_LEVELS = {f"h{level}": level for level in range(1, 7)}
SPACING_TAGS = frozenset(("br", "td", "th", "wbr"))  # separate words without ending the block
_NEVER_CONTENT = _word_set(
    "applet area audio button canvas datalist dialog embed frame frameset iframe input map math meter nav noframes "
    "noscript object optgroup option progress script select style svg template textarea title video"
)
_ROLES = _word_set("alertdialog banner contentinfo menu menubar navigation search toolbar")
# classes and ids that generators of sites and manuals give to navigation
_NAVIGATION = _word_set(
    "breadcrumb breadcrumbs catlinks cookie-banner footer indexterm jump-to-nav menu mw-editsection mw-jump-link "
    "mw-navigation mw-panel nav navbar navfooter navheader navigation noprint pagination printfooter site-footer "
    "site-header sidebar skip-link sphinxsidebar sr-only toc toctree-wrapper visually-hidden"
)
_ANCHORS = _word_set("anchor header-anchor headerlink hash-link")
FIGURE_CLASSES = _word_set("figure thumb wp-caption wp-block-image mediaobject informalfigure")
CAPTION_CLASSES = _word_set("caption caption-text figcaption figure-caption thumbcaption wp-caption-text")


def attribute_words(attributes: Mapping[str, str], name: str) -> list[str]:
    """The words of an attribute such as ``class``, lower-cased."""
    return attributes.get(name, "").lower().split()


def is_boilerplate(tag: str, attributes: Mapping[str, str], in_article: bool) -> bool:
    """Is this element, with all that it holds, no part of the content?

    A header inside an article is its title, not the site's banner.
    """
    style = attributes.get("style", "").lower().replace(" ", "")
    hidden = "hidden" in attributes or attributes.get("aria-hidden", "").strip().lower() == "true"
    if tag in _NEVER_CONTENT or hidden or "display:none" in style or "visibility:hidden" in style:
        return True
    if tag in ("html", "body", "main"):
        return False
    if tag in ("footer", "aside") or (tag == "header" and not in_article):
        return True
    classes = attribute_words(attributes, "class")
    if tag == "a":
        return not _ANCHORS.isdisjoint(classes)
    if not _ROLES.isdisjoint(attribute_words(attributes, "role")):
        return True
    return tag in BLOCK_TAGS and not _NAVIGATION.isdisjoint((*classes, *attribute_words(attributes, "id")))


MAX_HTML_DEPTH = 10_000
MAX_PAGE_IMAGES = 10_000
LINE_ATTRIBUTE = "data-source-line"  # the line in the Markdown that a page was made from
_BLOCK, _CAPTION, _FIGURE, _REGION = 8, 16, 32, 64  # above the three bits of a heading's level
_SELF_CLOSED = re.compile(r"<(script|style|title|textarea|iframe|a|div|span|p|i|b|em|td|th|li)\b([^<>]*)/>", re.I)
_XHTML = re.compile(r"\s*<\?xml\b|\s*<!DOCTYPE[^>]{0,200}\bXHTML\b", re.I)
_LAZY = ("data-src", "data-original", "data-lazy-src", "data-url")


def parse_page(text: str, *, numbered: bool = True) -> HtmlPage:
    """Parse HTML of any quality.

    Args:
        numbered: are the lines of ``text`` those that the user knows?

    Raises:
        BadValue: nested deeper than ``MAX_DEPTH``, or more figures than ``MAX_FIGURES``.
        UserError: ``missing_extra`` without lxml.
    """
    etree = import_optional("lxml.etree", "reading HTML")
    if _XHTML.match(text[:1000]):
        text = _SELF_CLOSED.sub(r"<\1\2></\1>", text)  # which HTML would take for open ones
    outline = HtmlParser()
    # the text is decoded by now: a declared encoding must not be heeded again
    parser = etree.HTMLParser(target=outline, encoding="utf-8", huge_tree=False, no_network=True)
    try:
        for line, part in enumerate(text.encode("utf-8", "replace").splitlines(keepends=True), start=1):
            outline.line = line if numbered else 0
            parser.feed(part)
        page: HtmlPage = parser.close()
    except etree.LxmlError:  # the file is empty, or broken beyond what the parser mends: what came before stands
        page = outline.close()
    return page


class HtmlParser:
    """Receives lxml's events.

    Attributes:
        line: of the markup that comes next, set by who feeds it.
    """

    def __init__(self) -> None:
        self.line = 1
        self._items: list[PageItem] = []
        self._open: list[int] = []  # what each open element is, as flags
        self._skipped = 0  # depth inside an element that is no content
        self._text: list[str] = []
        self._text_line = 0
        self._figures = 0
        self._last: tuple[int, ImageItem | None] = (-1, None)  # the last figure, and its place among the items
        self._block = 0
        self._caption = 0  # depth of captions
        self._frames: list[tuple[int, list[str]]] = []  # each open figure: where its items start, its captions
        self._sets: list[str] = []  # srcset of the sources of an image
        self._regions = _MainRegions()
        self._title: list[str] = []
        self._in_title = False
        self._base = ""

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        if len(self._open) + self._skipped >= MAX_HTML_DEPTH:
            raise BadValue(f"nested deeper than {MAX_HTML_DEPTH:,} elements")
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
        elif tag in SPACING_TAGS:
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
            self._attach_captions(*self._frames.pop())
        if flags & _REGION:
            self._regions.close(len(self._items))
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

    def close(self) -> HtmlPage:
        self._flush()
        while self._frames:
            self._attach_captions(*self._frames.pop())
        items = self._regions.content(self._items)
        return HtmlPage(_collapse("".join(self._title)), self._base, tuple(items))

    def _flags(self, tag: str, attributes: Mapping[str, str]) -> int:
        flags = _BLOCK | HEADING_LEVELS.get(tag, 0) if tag in BLOCK_TAGS else 0
        classes = attribute_words(attributes, "class") if attributes else []
        if tag == "figure" or (flags and not FIGURE_CLASSES.isdisjoint(classes)):
            flags |= _FIGURE
        titled = tag == "p" and "title" in classes and bool(self._open) and bool(self._open[-1] & _FIGURE)
        if tag == "figcaption" or titled or (flags and not CAPTION_CLASSES.isdisjoint(classes)):
            flags |= _CAPTION
        return flags

    def _enter(self, tag: str, attributes: Mapping[str, str], flags: int) -> None:
        """What an element begins besides a block."""
        if flags & _CAPTION:
            self._caption += 1
        if flags & _FIGURE:
            self._frames.append((len(self._items), []))
        if tag in ("main", "article") or "main" in attribute_words(attributes, "role"):
            self._open[-1] |= _REGION
            kind = "article" if tag == "article" and "role" not in attributes else "main"
            self._regions.open(kind, len(self._items))
        elif tag == "img":
            self._add_image(attributes)
        elif tag == "source":
            self._sets.append(attributes.get("srcset", ""))
        elif tag == "base" and not self._base:
            self._base = attributes.get("href", "")

    def _add_image(self, attributes: Mapping[str, str]) -> None:
        self._flush()
        self._figures += 1
        if self._figures > MAX_PAGE_IMAGES:
            raise BadValue(f"more than {MAX_PAGE_IMAGES:,} images on one page")
        sources = _image_sources(attributes, self._sets)
        stated = attributes.get(LINE_ATTRIBUTE, "")
        line = int(stated) if stated.isascii() and stated.isdigit() and len(stated) < 10 else self.line
        figure = ImageItem(sources, _collapse(attributes.get("alt", "")), self._block, line)
        self._last = (len(self._items), figure)
        self._items.append(figure)

    def _flush(self) -> None:
        text = _collapse("".join(self._text))
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
            self._items.append(TextItem(text, self._block, level, self._text_line))

    def _attach_captions(self, start: int, captions: list[str]) -> None:
        """Captions belong right after the last image of their figure, wherever they stood in it."""
        place, figure = self._last
        if figure is not None and place >= start:
            figure.captions += captions
        elif self._frames:
            self._frames[-1][1].extend(captions)
        else:
            for caption in captions:
                self._block += 1
                self._items.append(TextItem(caption, self._block, 0, self.line))
        self._block += 1


class _MainRegions:
    """The main content: inside ``main``, else inside a page's only article, else everywhere."""

    def __init__(self) -> None:
        self._open: list[tuple[str, int]] = []
        self._closed: dict[str, list[tuple[int, int]]] = {"main": [], "article": []}

    @property
    def in_article(self) -> bool:
        return bool(self._open)

    def open(self, kind: str, start: int) -> None:
        self._open.append((kind, start))

    def close(self, end: int) -> None:
        kind, start = self._open.pop()
        # of nested ones the outermost counts
        if kind not in (outer for outer, _ in self._open):
            self._closed[kind].append((start, end))

    def content(self, items: list[PageItem]) -> list[PageItem]:
        while self._open:
            self.close(len(items))
        for kind, ranges in self._closed.items():
            inside = list(chain.from_iterable(items[start:end] for start, end in ranges))
            if _content_length(inside) and (
                kind == "main" or (len(ranges) == 1 and 2 * _content_length(inside) >= _content_length(items))
            ):
                return inside
        return items


def _content_length(items: list[PageItem]) -> int:
    return sum(len(item.text) if isinstance(item, TextItem) else 1 for item in items)


def _collapse(text: str) -> str:
    return " ".join(text.split())


def _image_sources(attributes: Mapping[str, str], sets: list[str]) -> tuple[str, ...]:
    """References to one image, the best first; where pages load lazily, ``src`` is only a placeholder."""
    plain = attributes.get("src", "")
    lazy = [attributes[name] for name in _LAZY if name in attributes]
    several = [*_parse_srcset(attributes.get("srcset", "")), *_parse_srcset(attributes.get("data-srcset", ""))]
    others = list(chain.from_iterable(map(_parse_srcset, sets)))
    placeholder = plain.lstrip().lower().startswith("data:") and (lazy or several or others)
    ordered = [*lazy, *([] if placeholder else [plain]), *several, *others, *([plain] if placeholder else [])]
    return tuple(dict.fromkeys(source.strip() for source in ordered if source.strip()))


def _parse_srcset(srcset: str) -> list[str]:
    """``a.png 1x, b.png 2x`` as references, the largest first. Data URLs, which hold commas, are left out."""
    found = []
    for candidate in re.split(r",\s+|,$", srcset.strip()[:100_000]):
        reference, _, size = candidate.strip().partition(" ")
        number = re.match(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", size.strip())
        if reference and not reference.lower().startswith("data:"):
            found.append((float(number[0]) if number else 1.0, reference))
    return [reference for _, reference in sorted(found, key=lambda pair: -pair[0])]
