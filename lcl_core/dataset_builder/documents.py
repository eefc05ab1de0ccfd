"""Rows of a built corpus, and documents made of HTML pages or of images of one topic with their texts."""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, TypeVar

from lcl_core.common.errors import UserError


@dataclass(frozen=True, slots=True)
class PairRow:
    """A picture and the words that belong to it.

    Attributes:
        keywords, long: further words, where the source has them.
        vendor: who drew it, where several drew the same thing.
    """

    image: str
    captions: tuple[str, ...]
    labels: dict[str, str]
    split: str
    source: str
    licence: str
    vendor: str | None = None
    keywords: tuple[str, ...] | None = None
    long: str | None = None

    def to_json(self) -> dict[str, Any]:
        facts = {
            "image": self.image,
            "captions": list(self.captions),
            "keywords": None if self.keywords is None else list(self.keywords),
            "long": self.long,
            "labels": self.labels,
            "vendor": self.vendor,
            "split": self.split,
            "source": self.source,
            "licence": self.licence,
        }
        return {name: value for name, value in facts.items() if value is not None}

    @staticmethod
    def from_json(facts: dict[str, Any]) -> PairRow:
        lists: dict[str, Any] = {name: tuple(facts[name]) for name in ("captions", "keywords") if name in facts}
        return PairRow(**(facts | lists))


@dataclass(frozen=True, slots=True)
class PlacedImage:
    """A picture of a document.

    Attributes:
        sentence: the one that it is matched to.
        before: the one before which it really stands.
    """

    image: str
    sentence: int
    before: int
    alt: str = ""


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """Sentences, and pictures matched to some of them by the structure of where they come from: similarity 1."""

    url: str
    source: str
    licence: str
    sentences: tuple[str, ...]
    pictures: tuple[PlacedImage, ...]
    split: str = "train"

    def to_json(self) -> dict[str, Any]:
        images = [
            {
                "image_name": placed.image,
                "raw_url": None,
                "matched_text_index": placed.sentence,
                "matched_sim": 1.0,
                "insert_before": placed.before,
                "alt": placed.alt,
            }
            for placed in self.pictures
        ]
        return {
            "url": self.url,
            "source": self.source,
            "licence": self.licence,
            "text_list": list(self.sentences),
            "image_info": images,
        }


@dataclass(frozen=True, slots=True)
class SourceRows:
    """What a source gives."""

    pairs: Sequence[PairRow] = ()
    documents: Sequence[DocumentRow] = ()


def json_line(facts: dict[str, Any]) -> str:
    return json.dumps(facts, ensure_ascii=False) + "\n"


_BLANKS = re.compile(r"\s+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"“(])")
MIN_SENTENCE_WORDS = 3  # words: what is shorter is no sentence of its own


def plain_text(text: str | None) -> str:
    """Entities resolved, runs of blanks made one."""
    return _BLANKS.sub(" ", html.unescape(text or "")).strip()


def split_sentences(text: str) -> list[str]:
    """Cut after a full stop before a capital; pieces of fewer than three words stay with their neighbour."""
    found: list[str] = []
    for piece in _SENTENCE_END.split(text):
        if found and (len(piece.split()) < MIN_SENTENCE_WORDS or len(found[-1].split()) < MIN_SENTENCE_WORDS):
            found[-1] += f" {piece}"
        else:
            found.append(piece)
    return found


def hash_fraction(key: str) -> float:
    """A number in [0, 1) that belongs to ``key``: the first 32 bits of its SHA-1."""
    digest = hashlib.sha1(key.encode(), usedforsecurity=False).hexdigest()
    return int(digest[:8], 16) / 2**32


def split_by_hash(key: str, val: float = 0.05, test: float = 0.10) -> str:
    """The same split for everything that shares ``key``."""
    share = hash_fraction(f"split:{key}")
    if share < test:
        return "test"
    return "val" if share < test + val else "train"


_SKIPPED_TAGS = {"script", "style", "nav", "header", "footer", "pre", "svg", "form", "button", "noscript"}
_SKIPPED_CLASSES = {"headerlink", "toctree-wrapper", "toc", "navheader", "navfooter", "indexterm", "related"}
_SKIPPED_CLASSES |= {"sphinxsidebar", "contents", "refbox", "field-list", "next-page", "prev-page", "seealso"}
_SKIPPED_CLASSES |= {"footer", "highlight"}
_BLOCK_TAGS = {"p", "li", "dt", "dd", "h1", "h2", "h3", "h4", "h5", "h6", "figcaption", "caption", "td", "th", "tr"}
_BLOCK_TAGS |= {"div", "blockquote", "section", "article", "table", "ul", "ol", "dl", "figure", "center", "body", "br"}
_BLOCK_TAGS |= {"hr"}
_CAPTION = re.compile(r"\bcaption\b")
_WORD = re.compile(r"[A-Za-z]{2}")


@dataclass(frozen=True, slots=True)
class PageText:
    text: str
    caption: bool = False


@dataclass(frozen=True, slots=True)
class PageImage:
    """A picture: where the page says it is, or its name in the corpus; and the text in its place."""

    image: str
    alt: str = ""


PageContent = PageText | PageImage


def page_items(html: str) -> list[PageContent]:
    """The contents of a page's main part; nothing of what is no page.

    Raises: UserError ``missing_extra`` without lxml.
    """
    lxml, walk = _lxml(), _PageWalk()
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


class _PageWalk:
    def __init__(self) -> None:
        self.items: list[PageContent] = []
        self._pieces: list[str] = []

    def flush(self, caption: bool) -> None:
        """What was gathered becomes a text, if there is a word in it."""
        text = plain_text("".join(self._pieces)).replace("¶", "").strip()
        self._pieces.clear()
        if len(text) > 1 and _WORD.search(text):
            self.items.append(PageText(text, caption))

    def element(self, element: Any, caption: bool) -> None:
        """``caption``: whether it lies in one."""
        if _is_skipped(element):
            return
        if element.tag.lower() == "img":
            self.flush(caption)
            self.items.append(PageImage(element.get("src") or "", plain_text(element.get("alt"))))
            return
        inner = caption or _is_caption(element)
        block = element.tag.lower() in _BLOCK_TAGS
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
    if not isinstance(element.tag, str) or element.tag.lower() in _SKIPPED_TAGS:
        return True
    return not _SKIPPED_CLASSES.isdisjoint(_classes(element))


def _is_caption(element: Any) -> bool:
    tag = element.tag.lower()
    if tag in ("figcaption", "caption") or _CAPTION.search(element.get("class") or ""):
        return True
    above = element.getparent()
    titled = tag == "p" and "title" in _classes(element)
    return titled and above is not None and "figure" in (above.get("class") or "")


def page_images(items: list[PageContent]) -> Iterator[PageImage]:
    return (item for item in items if isinstance(item, PageImage))


MAX_IMAGES, MAX_WORDS, MIN_WORDS = 8, 320, 12
GROUP_SIZE, MIN_GROUP_SIZE = 6, 2
_CAPTION_OFFSETS = (0, -1, 1, -2)  # from the sentence before which the picture stands, the likeliest first
_NEAR_OFFSETS = (-1, 0, -2, 1, -3, 2)
Body = tuple[list[str], list[PlacedImage]]
K = TypeVar("K", bound="str | tuple[str, ...]")


def build_documents(items: Sequence[PageContent], max_words: int = MAX_WORDS) -> Iterator[Body]:
    """Pieces of a page that have a picture and enough words: sentences, and pictures matched to one each.

    A picture goes to its caption where there is one, else to the nearest sentence before it, else to the one after;
    no sentence is matched twice.
    """
    for piece in _split_page(items, max_words):
        laid = _collect_content(piece)
        if laid.figures and sum(len(text.split()) for text in laid.texts) >= MIN_WORDS:
            placed = list(_match_images(laid))
            if placed:
                yield laid.texts, placed


def _split_page(items: Sequence[PageContent], max_words: int) -> Iterator[list[PageContent]]:
    piece: list[PageContent] = []
    words = images = 0
    for item in items:
        more = len(item.text.split()) if isinstance(item, PageText) else 0
        full = images >= MAX_IMAGES if isinstance(item, PageImage) else not item.caption and words + more > max_words
        if piece and full:
            yield piece
            piece, words, images = [], 0, 0
        piece.append(item)
        words += more
        images += isinstance(item, PageImage)
    if piece:
        yield piece


@dataclass
class _DocumentContent:
    """``figures``: each with the number of the sentence before which it stands."""

    texts: list[str] = field(default_factory=list)
    captions: set[int] = field(default_factory=set)
    figures: list[tuple[PageImage, int]] = field(default_factory=list)


def _collect_content(piece: Iterable[PageContent]) -> _DocumentContent:
    laid = _DocumentContent()
    for item in piece:
        if isinstance(item, PageImage):
            laid.figures.append((item, len(laid.texts)))
        elif item.caption:
            laid.captions.add(len(laid.texts))
            laid.texts.append(item.text)
        else:
            laid.texts += split_sentences(item.text)
    return laid


def _match_images(laid: _DocumentContent) -> Iterator[PlacedImage]:
    taken: set[int] = set()
    for figure, before in laid.figures:
        near = [before + step for step in _CAPTION_OFFSETS if before + step in laid.captions]
        near += [before + step for step in _NEAR_OFFSETS]
        free = (place for place in near if 0 <= place < len(laid.texts) and place not in taken)
        place = next(free, None)
        if place is not None:
            taken.add(place)
            yield PlacedImage(figure.image, place, before, figure.alt)


def group_documents(
    pairs: Iterable[PairRow],
    key: Callable[[PairRow], K],
    texts: Callable[[PairRow], Sequence[str]],
    licence: str,
    title: Callable[[K], str] = lambda _: "",
) -> Iterator[DocumentRow]:
    """Training pictures of one topic, each before its own text, in an order that their names decide.

    The texts are as people wrote them; that these stand together is our doing.

    Args:
        licence: of all the works.
        title: first sentence of a topic's documents, or nothing.
    """
    groups: dict[K, list[PairRow]] = {}
    for pair in pairs:
        if pair.split == "train":
            groups.setdefault(key(pair), []).append(pair)
    for topic, members in sorted(groups.items(), key=lambda group: group[0]):
        members.sort(key=lambda pair: hash_fraction(f"order:{pair.image}"))
        for start in range(0, len(members), GROUP_SIZE):
            chunk = members[start : start + GROUP_SIZE]
            if len(chunk) >= MIN_GROUP_SIZE:
                url = f"{chunk[0].source}:{topic}/{start}"
                yield _group_document(url, chunk, title(topic), texts, licence)


def _group_document(
    url: str, chunk: Sequence[PairRow], title: str, texts: Callable[[PairRow], Sequence[str]], licence: str
) -> DocumentRow:
    said = [title] if title else []
    placed = []
    for pair in chunk:
        placed.append(PlacedImage(pair.image, len(said), len(said)))
        said += texts(pair)
    return DocumentRow(url, chunk[0].source, licence, tuple(said), tuple(placed))
