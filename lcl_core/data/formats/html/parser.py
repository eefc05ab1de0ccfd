"""The content of an HTML page in reading order: texts and images, without navigation, menus and hidden parts."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Any

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
        block, line: as of :class:`TextItem`.
    """

    sources: tuple[str, ...]
    alt: str
    block: int
    line: int = 0
    captions: list[str] = field(default_factory=list)


PageItem = TextItem | ImageItem


@dataclass(frozen=True, slots=True)
class HtmlPage:
    """A page's title, maybe empty; what its references are relative to, if not to the page; and its content."""

    title: str
    base: str
    items: tuple[PageItem, ...]

    def block_texts(self) -> dict[int, str]:
        """The whole text of each block, across its images."""
        found: dict[int, list[str]] = {}
        for item in self.items:
            if isinstance(item, TextItem):
                found.setdefault(item.block, []).append(item.text)
        return {block: " ".join(texts) for block, texts in found.items()}


def _word_set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_BLOCK_TAGS = _word_set(
    "address article aside blockquote body caption center dd details dialog dir div dl dt fieldset figcaption figure "
    "footer form frameset h1 h2 h3 h4 h5 h6 header hgroup hr html legend li main menu nav ol p pre section summary "
    "table tbody tfoot thead tr ul"
)
_HEADING_LEVELS = {f"h{level}": level for level in range(1, 7)}
_SPACING_TAGS = frozenset(("br", "td", "th", "wbr"))  # separate words without ending the block
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
_FIGURE_CLASSES = _word_set("figure thumb wp-caption wp-block-image mediaobject informalfigure")
_CAPTION_CLASSES = _word_set("caption caption-text figcaption figure-caption thumbcaption wp-caption-text")


def _words(element: Any, name: str) -> list[str]:
    """The words of an attribute such as ``class``, lower-cased."""
    return element.get(name, "").lower().split()


def _is_main(element: Any) -> bool:
    return element.tag == "main" or "main" in _words(element, "role")


def _is_boilerplate(element: Any) -> bool:
    """Is this element, with all that it holds, no part of the content?

    A header inside an article is its title, not the site's banner.
    """
    tag = element.tag
    style = element.get("style", "").lower().replace(" ", "")
    hidden = element.get("hidden") is not None or element.get("aria-hidden", "").strip().lower() == "true"
    if tag in _NEVER_CONTENT or hidden or "display:none" in style or "visibility:hidden" in style:
        return True
    if tag in ("html", "body", "main"):
        return False
    if tag in ("footer", "aside"):
        return True
    if tag == "header" and not any(each.tag == "article" or _is_main(each) for each in element.iterancestors()):
        return True
    classes = _words(element, "class")
    if tag == "a":
        return not _ANCHORS.isdisjoint(classes)
    if not _ROLES.isdisjoint(_words(element, "role")):
        return True
    return tag in _BLOCK_TAGS and not _NAVIGATION.isdisjoint((*classes, *_words(element, "id")))


MAX_HTML_DEPTH = 2000
MAX_PAGE_IMAGES = 10_000
LINE_ATTRIBUTE = "data-source-line"  # the line in the Markdown that a page was made from
_SELF_CLOSED = re.compile(r"<(script|style|title|textarea|iframe|a|div|span|p|i|b|em|td|th|li)\b([^<>]*)/>", re.I)
_XHTML = re.compile(r"\s*<\?xml\b|\s*<!DOCTYPE[^>]{0,200}\bXHTML\b", re.I)
_PAGE_END = re.compile(r"</(?:body|html)\s*>", re.I)  # content may follow
_LAZY = ("data-src", "data-original", "data-lazy-src", "data-url")


def parse_page(text: str) -> HtmlPage:
    """Parse HTML of any quality.

    Raises:
        BadValue: nested deeper than ``MAX_HTML_DEPTH``, or more images than ``MAX_PAGE_IMAGES``.
        UserError: ``missing_extra`` without lxml.
    """
    etree = import_optional("lxml.etree", "reading HTML")
    if _XHTML.match(text[:1000]):
        text = _SELF_CLOSED.sub(r"<\1\2></\1>", text)  # which HTML would take for open ones
    text = _PAGE_END.sub("", text).replace("\0", "\ufffd")
    # the text is decoded by now: a declared encoding must not be heeded again
    parser = etree.HTMLParser(encoding="utf-8", huge_tree=True, no_network=True, remove_comments=True, remove_pis=True)
    root = etree.fromstring(text.encode("utf-8", "replace"), parser)
    if root is None:  # the file is empty
        return HtmlPage("", "", ())
    if sum(1 for _ in root.iter("img")) > MAX_PAGE_IMAGES:
        raise BadValue(f"more than {MAX_PAGE_IMAGES:,} images on one page")
    title = _collapse(root.findtext("head/title") or "")
    return HtmlPage(title, root.xpath("string(//base/@href)"), tuple(_main_items(root)))


def _main_items(root: Any) -> list[PageItem]:
    """The main content: inside ``main``, else inside a page's only article that is half of it, else everywhere."""
    blocks = count(1)
    everything = _PageWalk(root, blocks).items
    for is_region in (_is_main, lambda element: element.tag == "article"):
        # of nested ones the outermost counts
        regions = [
            element
            for element in root.iter()
            if is_region(element)
            and not _is_boilerplate(element)
            and not any(is_region(above) or _is_boilerplate(above) for above in element.iterancestors())
        ]
        inside = list(chain.from_iterable(_PageWalk(region, blocks).items for region in regions))
        length = _content_length(inside)
        if length and (is_region is _is_main or (len(regions) == 1 and 2 * length >= _content_length(everything))):
            return inside
    return everything


class _PageWalk:
    """The items below an element.

    Args:
        blocks: numbers for the blocks of the page.
    """

    def __init__(self, root: Any, blocks: Iterator[int]) -> None:
        self.items: list[PageItem] = []
        self._blocks = blocks
        self._block = next(blocks)
        self._open: list[str] = []  # tags
        self._text: list[str] = []
        self._line = self._text_line = 0
        self._last: tuple[int, ImageItem | None] = (-1, None)  # the last image, and its place among the items
        self._captions = 0  # depth of captions
        self._figures: list[tuple[int, list[str]]] = []  # each open figure: where its items start, its captions
        walker = import_optional("lxml.etree", "reading HTML").iterwalk(root, events=("start", "end"))
        for event, element in walker:
            skipped = _is_boilerplate(element)
            if event == "start" and skipped:
                walker.skip_subtree()
            elif event == "start":
                self._start(element)
                self._add_text(element.text)
            else:
                if not skipped:
                    self._end(element)
                if element is not root:
                    self._add_text(element.tail)
        self._end_block()

    def _start(self, element: Any) -> None:
        tag = element.tag
        if len(self._open) >= MAX_HTML_DEPTH:
            raise BadValue(f"nested deeper than {MAX_HTML_DEPTH:,} elements")
        stated = element.get(LINE_ATTRIBUTE, "")
        self._line = int(stated) if re.fullmatch("[0-9]{1,9}", stated) else element.sourceline or 0
        if tag in _BLOCK_TAGS:
            self._end_block()
        elif tag in _SPACING_TAGS:
            self._text.append(" ")
        self._open.append(tag)
        self._captions += _is_caption(element)
        if _is_figure(element):
            self._figures.append((len(self.items), []))
        if tag == "img":
            self._flush()
            image = ImageItem(_image_sources(element), _collapse(element.get("alt", "")), self._block, self._line)
            self._last = (len(self.items), image)
            self.items.append(image)

    def _end(self, element: Any) -> None:
        if element.tag in _BLOCK_TAGS:
            self._end_block()
        self._open.pop()
        self._captions -= _is_caption(element)
        if _is_figure(element):
            self._attach_captions(*self._figures.pop())

    def _add_text(self, text: str | None) -> None:
        if text and (self._text or not text.isspace()):
            if not self._text:
                self._text_line = self._line
            self._text.append(text)

    def _end_block(self) -> None:
        self._flush()
        self._block = next(self._blocks)

    def _flush(self) -> None:
        text = _collapse("".join(self._text))
        self._text.clear()
        level = next((_HEADING_LEVELS[tag] for tag in reversed(self._open[-4:]) if tag in _HEADING_LEVELS), 0)
        if level:
            text = text.rstrip("¶🔗 ")
        if not any(map(str.isalnum, text)):
            return
        if self._captions and self._figures:
            self._figures[-1][1].append(text)
        else:
            self.items.append(TextItem(text, self._block, level, self._text_line))

    def _attach_captions(self, start: int, captions: list[str]) -> None:
        """Captions belong right after the last image of their figure, wherever they stood in it."""
        place, image = self._last
        if image is not None and place >= start:
            image.captions += captions
        elif self._figures:
            self._figures[-1][1].extend(captions)
        else:
            self.items += [TextItem(caption, next(self._blocks), 0, self._line) for caption in captions]
        self._block = next(self._blocks)


def _is_figure(element: Any) -> bool:
    return element.tag == "figure" or (
        element.tag in _BLOCK_TAGS and not _FIGURE_CLASSES.isdisjoint(_words(element, "class"))
    )


def _is_caption(element: Any) -> bool:
    classes = _words(element, "class")
    if element.tag == "p" and "title" in classes and element.getparent() is not None:
        return _is_figure(element.getparent())
    return element.tag == "figcaption" or (element.tag in _BLOCK_TAGS and not _CAPTION_CLASSES.isdisjoint(classes))


def _content_length(items: list[PageItem]) -> int:
    return sum(len(item.text) if isinstance(item, TextItem) else 1 for item in items)


def _collapse(text: str) -> str:
    return " ".join(text.split())


def _image_sources(image: Any) -> tuple[str, ...]:
    """References to one image, the best first; where pages load lazily, ``src`` is only a placeholder."""
    plain = image.get("src", "")
    picture = next(image.iterancestors("picture"), None)
    alternatives = [] if picture is None else picture.iter("source")
    sets = [image.get("srcset", ""), image.get("data-srcset", ""), *(each.get("srcset", "") for each in alternatives)]
    lazy = [image.get(name) for name in _LAZY if image.get(name)]
    others = list(chain.from_iterable(map(_parse_srcset, sets)))
    placeholder = plain.lstrip().lower().startswith("data:") and (lazy or others)
    ordered = [*lazy, *others, plain] if placeholder else [*lazy, plain, *others]
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
