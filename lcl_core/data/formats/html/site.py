"""A folder of HTML: manuals, wikis, reports. A document is a page, or a chunk of a long one.

    FOLDER/**/*.html, .htm, .xhtml   pages; images lie where the pages say, below FOLDER

Also a zip of such a folder, or a single page. Texts are sentences, an image keeps its position on the page, followed
by its alternative text and captions. Menus, banners, hidden parts, text that most pages repeat, and icons are left
out. Drawings inside the markup (``svg``) are no images. Markdown (CommonMark with tables, HTML inside allowed,
front matter passed over) becomes HTML first.
"""

from __future__ import annotations

import os
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from lcl_core.common.errors import UserError, import_optional
from lcl_core.common.paths import replace_surrogates
from lcl_core.data.corpus.file_store import FileStore, FolderStore, ZipStore
from lcl_core.data.formats.base import FormatReader, ReaderOptions
from lcl_core.data.formats.html.chunking import ChunkUnit, chunk_units, image_units, split_sentences, text_units
from lcl_core.data.formats.html.image_resolver import RejectedItem, SiteImages
from lcl_core.data.formats.html.parser import (
    LINE_ATTRIBUTE,
    HtmlPage,
    ImageItem,
    PageItem,
    TextItem,
    decode_page,
    parse_page,
)
from lcl_core.data.formats.image_lookup import ImageFinder
from lcl_core.data.jsonl import BadValue
from lcl_core.data.records import BadItem, ImageSegment, Record, RecordImage, SequenceDocument

_FILE_NAME = re.compile(r"\S+\.(?:png|jpe?g|gif|webp|svg|bmp|tiff?|avif)", re.I)
_GENERIC_ALTS = frozenset(
    ("alt", "bild", "figure", "graphic", "graphics", "icon", "illustration", "image", "images", "img", "inline")
).union(("logo", "photo", "picture", "screenshot", "thumbnail"))


def _image_texts(image: ImageItem) -> list[str]:
    """Its alternative text, unless it says nothing or a caption contains it, and its captions."""
    captions = list(dict.fromkeys(image.captions))
    alt = _normalize_text(image.alt)
    # programs put a file name or a mere word for "image" there
    says_nothing = not alt or alt in _GENERIC_ALTS or "://" in image.alt or _FILE_NAME.fullmatch(image.alt)
    if says_nothing or any(f" {alt} " in f" {_normalize_text(caption)} " for caption in captions):
        return captions
    return [image.alt, *captions]


def _normalize_text(text: str) -> str:
    return " ".join(re.sub(r"[\W_]", " ", text).split()).lower()


MANY_PAGES = 5  # below that, "most pages" says nothing
SAMPLED_PAGES = 1000


class BoilerplateDetector:
    """Counts over a first walk: texts on a sample of evenly spaced pages, images on all. Memory is that of hashes.

    Args:
        pages: how many the site has.
    """

    def __init__(self, pages: int) -> None:
        self._step = -(-pages // SAMPLED_PAGES) or 1
        self._sampled = 0
        self._texts: Counter[int] = Counter()
        self._images: Counter[int] = Counter()

    def add(self, number: int, texts: Iterable[str], images: Iterable[str]) -> None:
        """Count page ``number`` (from 0): each text and image once."""
        self._images.update(set(map(hash, images)))
        if number % self._step == 0:
            self._sampled += 1
            self._texts.update(set(map(hash, texts)))

    def uses(self, image: str) -> int:
        """Number of pages that have the image."""
        return self._images[hash(image)]

    def share(self, text: str) -> str:
        """``"95 of 100 pages"`` when the text is on most of them, else nothing."""
        count = self._texts[hash(text)]
        return f"{count} of {self._sampled} pages" if count >= MANY_PAGES and 2 * count > self._sampled else ""


MAX_PAGE_BYTES = 16 << 20
_SNIFFED_FILES = 5000
_PROJECT_FILES = re.compile(r"(?:readme|licen[cs]e|changelog|contributing)\b[^/]*$", re.I)


class PageOptions(ReaderOptions):
    """Options of readers of pages.

    Attributes:
        images: a folder or tars of the images that pages have on other sites, found by URL; never fetched.
        max_uses: an image on more pages than that is an icon.
        min_side: an image with a shorter side is an icon, px.
        max_aspect: an image longer than that, long side over short side, is a rule or a banner.
        max_images, max_words: of one document; a longer page is cut. The defaults fit a context of 2,048 tokens.
    """

    images: Path | None = None
    max_uses: int = Field(default=5, ge=1)
    min_side: int = Field(default=32, ge=0)
    max_aspect: float = Field(default=6.0, ge=1)
    max_images: int = Field(default=8, ge=1)
    max_words: int = Field(default=1000, ge=10)


def _walk_files(root: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.relpath(os.path.join(folder, name), root) for name in files)


class SiteReader(FormatReader[PageOptions]):
    """Walks a site twice: what repeats over its pages is counted first."""

    options_type = PageOptions
    suffixes: ClassVar[tuple[str, ...]]

    @staticmethod
    @abstractmethod
    def parse(data: bytes) -> HtmlPage:
        """A page's content. Raises: BadValue; UserError ``missing_extra``."""

    @classmethod
    def sniff(cls, path: Path) -> bool:
        """A page, or a folder or zip where one file in ten is one (a dataset's readme does not make it a site)."""
        if path.is_file() and path.suffix.lower() != ".zip":
            return path.suffix.lower() in cls.suffixes
        names = list(islice(ZipStore(path).names() if path.is_file() else _walk_files(path), _SNIFFED_FILES))
        pages = sum(cls._is_page(name) and not _PROJECT_FILES.match(name) for name in names)
        return pages > 0 and 10 * pages >= len(names)

    def records(self) -> Iterator[Record | BadItem]:
        """Documents page by page; an image left out as an icon is listed once."""
        store, names = self._site()
        options = self.options
        finder = ImageFinder(options.images) if options.images is not None else None
        yield from finder.problems if finder is not None else ()
        images = SiteImages(store, finder, options.min_side, options.max_aspect)
        walk = _DocumentBuilder(images, self._survey(store, names, images), options)
        for name in names:
            page = self._read(store, name)
            if isinstance(page, BadItem):
                yield page
            else:
                yield from walk.documents(page, name)

    def _site(self) -> tuple[FileStore, list[str]]:
        if self.path.is_file() and self.path.suffix.lower() != ".zip":
            return FolderStore(self.path.parent), [self.path.name]
        store: FileStore = ZipStore(self.path) if self.path.is_file() else FolderStore(self.path)
        names = [name for name in store.names() if self._is_page(name)]
        if not names:
            raise UserError(
                f"there is no page here; files that end in {', '.join(self.suffixes)} are read",
                code="corpus_unreadable",
                file=self.path,
            )
        return store, names

    @classmethod
    def _is_page(cls, name: str) -> bool:
        return name.lower().endswith(cls.suffixes) and not name.startswith("__MACOSX/")

    def _survey(self, store: FileStore, names: list[str], images: SiteImages) -> BoilerplateDetector:
        repeats = BoilerplateDetector(len(names))
        for number, name in enumerate(names):
            page = self._read(store, name)
            if isinstance(page, BadItem):
                continue
            found = set()
            for item in page.items:
                if isinstance(item, ImageItem):
                    with suppress(RejectedItem):
                        found.add(images.find(item.sources, name, page.base).name)
            repeats.add(number, page.block_texts().values(), found)
        return repeats

    def _read(self, store: FileStore, name: str) -> HtmlPage | BadItem:
        shown = replace_surrogates(name)
        try:
            data = store.read(name, MAX_PAGE_BYTES)
        except UserError as error:
            return BadItem(shown, 0, "unreadable page", error.message)
        try:
            return self.parse(data)
        except BadValue as error:
            return BadItem(shown, 0, "bad page", str(error))


class _DocumentBuilder:
    """Makes documents of pages; each icon and repeated text is reported once."""

    def __init__(self, images: SiteImages, repeats: BoilerplateDetector, options: PageOptions) -> None:
        self._images = images
        self._repeats = repeats
        self._options = options
        self._reported: set[tuple[str, str]] = set()

    def documents(self, page: HtmlPage, name: str) -> Iterator[Record | BadItem]:
        shown = replace_surrogates(name)
        options = self._options
        kept: list[tuple[PageItem, RecordImage | None]] = []
        texts = page.block_texts()
        for item in page.items:
            try:
                if isinstance(item, TextItem):
                    text = texts[item.block]
                    if item.level <= 1 and (share := self._repeats.share(text)):
                        raise self._once("repeated text", text, f"on {share}: {text[:100]!r}")
                    last = kept[-1][0] if kept else None
                    if isinstance(last, TextItem) and last.block == item.block:  # an icon separated them
                        kept[-1] = (replace(last, text=f"{last.text} {item.text}"), None)
                    else:
                        kept.append((item, None))
                else:
                    kept.append((item, self._find_image(item, name, page.base)))
            except RejectedItem as error:
                if error.detail:
                    yield BadItem(shown, item.line, error.reason, error.detail)
                captions = item.captions if isinstance(item, ImageItem) else []
                kept += [(TextItem(text, -1, 0, item.line), None) for text in captions]  # they can be read without it
        units: list[ChunkUnit] = []
        for item, image in kept:
            if isinstance(item, TextItem):
                sentences = [item.text] if item.level else split_sentences(item.text)
                units += (unit for text in sentences for unit in text_units(text, item.level > 0, options.max_words))
            elif image is not None:
                units += image_units(image.name, _image_texts(item), options.max_words)
        if not units:
            yield BadItem(shown, 0, "empty document", "the page has neither text nor images")
        images = {image.name: image for _, image in kept if image is not None}
        for number, chunk in enumerate(chunk_units(units, options.max_images, options.max_words)):
            segments = tuple(segment for unit in chunk for segment in unit.segments)
            names = dict.fromkeys(segment.name for segment in segments if isinstance(segment, ImageSegment))
            yield Record(
                id=f"{shown}#{number}" if number else shown,
                body=SequenceDocument(segments),
                images=tuple(images[name] for name in names),
                extra={"page": shown, "title": page.title} if page.title else {"page": shown},
            )

    def _find_image(self, item: ImageItem, name: str, base: str) -> RecordImage:
        """The image of an item. Raises: likewise."""
        image = self._images.find(item.sources, name, base)
        uses = self._repeats.uses(image.name)
        if uses > self._options.max_uses:
            raise self._once("repeated image", image.name, f"{image.name[:200]}: on {uses:,} pages")
        try:
            self._images.check(image)
        except RejectedItem as error:
            if error.reason not in ("small image", "long image"):
                raise
            raise self._once(error.reason, image.name, error.detail) from error
        return image

    def _once(self, reason: str, key: str, detail: str) -> RejectedItem:
        reported = (reason, key) in self._reported
        self._reported.add((reason, key))
        return RejectedItem(reason, "" if reported else detail)


class WebReader(SiteReader):
    """HTML pages."""

    format = "web"
    suffixes = (".html", ".htm", ".xhtml")

    @staticmethod
    def parse(data: bytes) -> HtmlPage:
        return parse_page(decode_page(data))


MAX_OPEN_BRACKETS = 10_000  # each costs the parser .2 ms: sixteen megabytes of them an hour
MAX_NESTING = 100
_FRONT_MATTER = re.compile(r"---[ \t]*\n(?:(?!---[ \t]*$).*\n){0,1000}?---[ \t]*(?:\n|\Z)", re.M)
_TITLE = re.compile(r"""^title:[ \t]*["']?(.{1,300}?)["']?[ \t]*$""", re.M)
_IMAGE_TAG = re.compile(r"<img(?=[\s/>])", re.I)


class MarkdownReader(SiteReader):
    """Markdown pages."""

    format = "markdown"
    suffixes = (".md", ".markdown")

    @staticmethod
    def parse(data: bytes) -> HtmlPage:
        text = decode_page(data).replace("\r\n", "\n")
        if text.count("[") > text.count("]") + MAX_OPEN_BRACKETS:
            raise BadValue(f"more than {MAX_OPEN_BRACKETS:,} brackets are not closed")
        found = _FRONT_MATTER.match(text)
        title = None
        if found is not None:
            title = _TITLE.search(found[0])
            text = "\n" * found[0].count("\n") + text[found.end() :]
        page = parse_page(_to_html(text))
        return replace(page, title=title[1]) if title else page


def _to_html(text: str) -> str:
    """HTML whose images have line numbers. Raises: UserError ``missing_extra``."""
    markdown_it = import_optional("markdown_it", "reading Markdown")
    parser = markdown_it.MarkdownIt("commonmark", {"html": True, "maxNesting": MAX_NESTING})
    parser.enable(["table", "strikethrough"])
    parser.validateLink = lambda url: True  # references are judged when they are resolved
    tokens = parser.parse(text)
    for token in tokens:
        line = token.map[0] + 1 if token.map else 0
        for part in (token, *(token.children or ())):
            if part.type == "image":
                part.attrSet(LINE_ATTRIBUTE, str(line))
            elif part.type in ("html_block", "html_inline"):
                part.content = _IMAGE_TAG.sub(f'<img {LINE_ATTRIBUTE}="{line}"', part.content)
    return str(parser.renderer.render(tokens, parser.options, {}))
