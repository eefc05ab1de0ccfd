"""HTML pages as texts, captions and pictures in reading order."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from lcl_core.corpora.steps.texts import plain
from lcl_core.errors import UserError

_SKIPPED = {"script", "style", "nav", "header", "footer", "pre", "svg", "form", "button", "noscript"}
_SKIPPED_CLASSES = {"headerlink", "toctree-wrapper", "toc", "navheader", "navfooter", "indexterm", "related"}
_SKIPPED_CLASSES |= {"sphinxsidebar", "contents", "refbox", "field-list", "next-page", "prev-page", "seealso"}
_SKIPPED_CLASSES |= {"footer", "highlight"}
_BLOCKS = {"p", "li", "dt", "dd", "h1", "h2", "h3", "h4", "h5", "h6", "figcaption", "caption", "td", "th", "tr"}
_BLOCKS |= {"div", "blockquote", "section", "article", "table", "ul", "ol", "dl", "figure", "center", "body", "br"}
_BLOCKS |= {"hr"}
_CAPTION = re.compile(r"\bcaption\b")
_WORD = re.compile(r"[A-Za-z]{2}")


@dataclass(frozen=True, slots=True)
class Text:
    text: str
    caption: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture: where the page says it is, or its name in the corpus; and the text in its place."""

    image: str
    alt: str = ""


Item = Text | Figure


def items_of(html: str) -> list[Item]:
    """The contents of a page's main part; nothing of what is no page.

    Raises: UserError ``missing_extra`` without lxml.
    """
    lxml, walk = _lxml(), _Walk()
    try:
        root = lxml.fromstring(html)
    except (ValueError, lxml.etree.LxmlError):
        return []
    walk.element(root, caption=False)
    walk.flush(caption=False)
    return walk.items


def _lxml() -> Any:
    try:
        return import_module("lxml.html")
    except ImportError as error:
        message = "pages need lxml, which is not installed; `pip install 'lcl[corpora]'` brings it"
        raise UserError(message, code="missing_extra") from error


class _Walk:
    def __init__(self) -> None:
        self.items: list[Item] = []
        self._pieces: list[str] = []

    def flush(self, caption: bool) -> None:
        """What was gathered becomes a text, if there is a word in it."""
        text = plain("".join(self._pieces)).replace("¶", "").strip()
        self._pieces.clear()
        if len(text) > 1 and _WORD.search(text):
            self.items.append(Text(text, caption))

    def element(self, element: Any, caption: bool) -> None:
        """``caption``: whether it lies in one."""
        if _is_skipped(element):
            return
        if element.tag.lower() == "img":
            self.flush(caption)
            self.items.append(Figure(element.get("src") or "", plain(element.get("alt"))))
            return
        inner = caption or _is_caption(element)
        block = element.tag.lower() in _BLOCKS
        if block:
            self.flush(caption)
        self._pieces.append(element.text or "")
        for child in element:
            self.element(child, inner)
            self._pieces.append(child.tail or "")
        if block:
            self.flush(inner)


def _classes(element: Any) -> list[str]:
    return (element.get("class") or "").split()


def _is_skipped(element: Any) -> bool:
    """Comments, what is no text, and what surrounds it."""
    if not isinstance(element.tag, str) or element.tag.lower() in _SKIPPED:
        return True
    return not _SKIPPED_CLASSES.isdisjoint(_classes(element))


def _is_caption(element: Any) -> bool:
    tag = element.tag.lower()
    if tag in ("figcaption", "caption") or _CAPTION.search(element.get("class") or ""):
        return True
    above = element.getparent()
    titled = tag == "p" and "title" in _classes(element)
    return titled and above is not None and "figure" in (above.get("class") or "")


def figures_of(items: list[Item]) -> Iterator[Figure]:
    return (item for item in items if isinstance(item, Figure))
