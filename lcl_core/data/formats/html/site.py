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
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from lcl_core.common.errors import UserError, import_optional
from lcl_core.common.paths import replace_surrogates
from lcl_core.data.corpus.file_store import FileStore, FolderStore, ZipStore
from lcl_core.data.formats.base import FormatReader, ReaderOptions
from lcl_core.data.formats.html.chunking import ChunkUnit, chunk_units, image_units, split_sentences, text_units
from lcl_core.data.formats.html.image_resolver import RejectedImage, ResolvedImage, SiteImages
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


def informative_alt(alt: str) -> str:
    """``alt``, or nothing where a program has put a file name or a mere word for "image" there."""
    if _FILE_NAME.fullmatch(alt) or "://" in alt or _normalize_text(alt) in _GENERIC_ALTS:
        return ""
    return alt if any(map(str.isalnum, alt)) else ""


def caption_contains(alt: str, caption: str) -> bool:
    """Does the caption say all that the alternative text does, but for case and punctuation?"""
    return f" {_normalize_text(alt)} " in f" {_normalize_text(caption)} "


def _normalize_text(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s]", " ", text).split()).lower()


MANY_PAGES = 5  # below that, "most pages" says nothing
SAMPLED_PAGES = 1000


class BoilerplateDetector:
    """Counts over a first walk. Texts are counted on a sample of evenly spaced pages, images on all.

    Memory: about 100 bytes a distinct text of the sample and a distinct image of the site.

    Args:
        pages: how many the site has.
    """

    def __init__(self, pages: int) -> None:
        self._step = -(-pages // SAMPLED_PAGES) or 1
        self._sampled = 0
        self._texts: Counter[bytes] = Counter()
        self._images: Counter[bytes] = Counter()

    def add(self, number: int, texts: Iterable[str], images: Iterable[str]) -> None:
        """Count page ``number`` (from 0): each text and image once."""
        self._images.update({_digest(key) for key in images})
        if number % self._step == 0:
            self._sampled += 1
            self._texts.update({_digest(text) for text in texts})

    def seal(self) -> None:
        """Forget the texts that are on few pages."""
        self._texts = Counter({key: n for key, n in self._texts.items() if self._is_many(n)})

    def uses(self, image: str) -> int:
        """Number of pages that have the image."""
        return self._images[_digest(image)]

    def share(self, text: str) -> str:
        """``"95 of 100 pages"`` when the text is on most of them, else nothing."""
        count = self._texts.get(_digest(text), 0)
        return f"{count} of {self._sampled} pages" if self._is_many(count) else ""

    def _is_many(self, count: int) -> bool:
        return count >= MANY_PAGES and 2 * count > self._sampled


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


_SNIFFED_FILES = 5000  # files examined,
_SNIFFED_OTHERS = 100  # of which so many of one folder may be no pages: sites keep thousands of images in one
_PROJECT_FILES = re.compile(r"(?:readme|licen[cs]e|changelog|contributing)\b[^/]*$", re.I)


class PageOptions(ReaderOptions):
    """Options of readers of pages.

    Attributes:
        images: a folder or tars of the images that pages have on other sites, found by URL; never fetched.
        max_uses: an image on more pages than that is an icon.
        min_side: an image with a shorter side is an icon, px.
        max_aspect: an image longer than that, long side over short side, is a rule or a banner.
        max_images, max_words: of one document; a longer page is cut. The defaults fit a context of 2,048 tokens.
        max_page_bytes: of one page; a larger one is left out.
    """

    images: Path | None = None
    max_uses: int = Field(default=5, ge=1)
    min_side: int = Field(default=32, ge=0)
    max_aspect: float = Field(default=6.0, ge=1)
    max_images: int = Field(default=8, ge=1)
    max_words: int = Field(default=1000, ge=10)
    max_page_bytes: int = Field(default=16 << 20, ge=1, le=256 << 20)


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
        names = list(ZipStore(path).names() if path.is_file() else islice(cls._some_files(path), _SNIFFED_FILES))
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
    def _some_files(cls, root: Path) -> Iterator[str]:
        """All pages and some of the others, folder by folder."""
        for folder, folders, files in os.walk(root):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            below = os.path.relpath(folder, root)
            pages = [name for name in files if cls._is_page(name)]
            others = [name for name in files if not cls._is_page(name)][:_SNIFFED_OTHERS]
            yield from (name if below == "." else f"{below}/{name}" for name in pages + others)

    @classmethod
    def _is_page(cls, name: str) -> bool:
        return name.lower().endswith(cls.suffixes) and not name.startswith("__MACOSX/")

    def _survey(self, store: FileStore, names: list[str], images: SiteImages) -> BoilerplateDetector:
        repeats = BoilerplateDetector(len(names))
        for number, name in enumerate(names):
            page = self._read(store, name)
            if isinstance(page, BadItem):
                continue
            found = [images.find(item.sources, name, page.base) for item in page.items if isinstance(item, ImageItem)]
            repeats.add(number, page.block_texts().values(), [at.key for at in found if isinstance(at, ResolvedImage)])
        repeats.seal()
        return repeats

    def _read(self, store: FileStore, name: str) -> HtmlPage | BadItem:
        shown = replace_surrogates(name)
        try:
            data = store.read(name, self.options.max_page_bytes)
        except UserError as error:
            return BadItem(shown, 0, "unreadable page", error.message)
        except (OSError, RuntimeError, ValueError):  # a loop of links, a name that no file can have
            return BadItem(shown, 0, "unreadable page", "the file cannot be read")
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
        self._reported: set[str] = set()

    def documents(self, page: HtmlPage, name: str) -> Iterator[Record | BadItem]:
        shown = replace_surrogates(name)
        yield from (BadItem(shown, 0, "bad page", problem) for problem in page.problems)
        kept: list[tuple[PageItem, ResolvedImage | None]] = []
        texts = page.block_texts()
        for item in page.items:
            found = (
                self._repeated(item, texts)
                if isinstance(item, TextItem)
                else self._resolve_image(item, name, page.base)
            )
            if isinstance(found, RejectedImage):
                if found.detail:
                    yield BadItem(shown, item.line, found.reason, found.detail)
                captions = item.captions if isinstance(item, ImageItem) else []
                kept += [(TextItem(text, -1, 0, item.line), None) for text in captions]  # they can be read without it
            else:
                kept.append((item, found))
        units = self._units(kept)
        if not units:
            yield BadItem(shown, 0, "empty document", "the page has neither text nor images")
        images = {found.image.name: found.image for _, found in kept if found is not None}
        for number, chunk in enumerate(chunk_units(units, self._options.max_images, self._options.max_words)):
            yield _make_record(shown, number, page.title, chunk, images)

    def _repeated(self, item: TextItem, texts: dict[int, str]) -> RejectedImage | None:
        """A rejection if most pages have the block; without detail if it was reported before."""
        text = texts[item.block]
        share = "" if item.level > 1 else self._repeats.share(text)
        return self._once("repeated text", text, f"on {share}: {text[:100]!r}") if share else None

    def _resolve_image(self, item: ImageItem, name: str, base: str) -> ResolvedImage | RejectedImage:
        """The image of an item, or its rejection, likewise."""
        found = self._images.find(item.sources, name, base)
        if isinstance(found, RejectedImage):
            return found
        uses = self._repeats.uses(found.key)
        if uses > self._options.max_uses:
            return self._once("repeated image", found.key, f"{found.key[:200]}: on {uses:,} pages")
        verdict = self._images.judge(found)
        if verdict is not None and verdict.reason in ("small image", "long image"):
            return self._once(verdict.reason, found.key, verdict.detail)
        return verdict or found

    def _once(self, reason: str, key: str, detail: str) -> RejectedImage:
        mark = f"{reason} {key}"
        reported = mark in self._reported
        self._reported.add(mark)
        return RejectedImage(reason, "" if reported else detail)

    def _units(self, kept: list[tuple[PageItem, ResolvedImage | None]]) -> list[ChunkUnit]:
        units: list[ChunkUnit] = []
        limit = self._options.max_words
        for item, found in _merge_blocks(kept):
            if isinstance(item, TextItem):
                texts = [item.text] if item.level else split_sentences(item.text)
                units += (unit for text in texts for unit in text_units(text, item.level > 0, limit))
            elif found is not None:
                units += image_units(found.image.name, _image_texts(item), limit)
        return units


def _merge_blocks(kept: list[tuple[PageItem, ResolvedImage | None]]) -> Iterator[tuple[PageItem, ResolvedImage | None]]:
    """Join the texts of one block that an icon separated."""
    waiting: list[TextItem] = []
    for item, found in kept:
        if waiting and not (isinstance(item, TextItem) and item.block == waiting[0].block >= 0):
            yield _merge_texts(waiting), None
            waiting = []
        if isinstance(item, TextItem):
            waiting.append(item)
        else:
            yield item, found
    if waiting:
        yield _merge_texts(waiting), None


def _merge_texts(words: list[TextItem]) -> TextItem:
    first = words[0]
    return TextItem(" ".join(part.text for part in words), first.block, first.level, first.line)


def _image_texts(image: ImageItem) -> list[str]:
    """Texts after an image: its alternative text, unless a caption contains it, and its captions."""
    captions = list(dict.fromkeys(image.captions))
    alt = informative_alt(image.alt)
    return [alt, *captions] if alt and not any(caption_contains(alt, caption) for caption in captions) else captions


def _make_record(page: str, number: int, title: str, chunk: list[ChunkUnit], images: dict[str, RecordImage]) -> Record:
    segments = tuple(segment for unit in chunk for segment in unit.segments)
    names = dict.fromkeys(segment.name for segment in segments if isinstance(segment, ImageSegment))
    return Record(
        id=f"{page}#{number}" if number else page,
        body=SequenceDocument(segments),
        images=tuple(images[name] for name in names),
        extra={"page": page, "title": title} if title else {"page": page},
    )


class WebReader(SiteReader):
    """HTML pages."""

    format = "web"
    suffixes = (".html", ".htm", ".xhtml")

    @staticmethod
    def parse(data: bytes) -> HtmlPage:
        return parse_page(decode_page(data))


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
        found = _FRONT_MATTER.match(text)
        title = None
        if found is not None:
            title = _TITLE.search(found[0])
            text = "\n" * found[0].count("\n") + text[found.end() :]
        html, problems = _to_html(text)
        page = parse_page(html, numbered=False)
        return HtmlPage(title[1] if title else page.title, page.base, page.items, problems)


def _to_html(text: str) -> tuple[str, tuple[str, ...]]:
    """HTML whose images have line numbers, and the problems. Raises: UserError ``missing_extra``."""
    markdown_it = import_optional("markdown_it", "reading Markdown")
    parser = markdown_it.MarkdownIt("commonmark", {"html": True, "maxNesting": MAX_NESTING})
    parser.enable(["table", "strikethrough"])
    parser.validateLink = lambda url: True  # references are judged when they are resolved
    tokens = parser.parse(text)
    problems: tuple[str, ...] = ()
    for token in tokens:
        line = token.map[0] + 1 if token.map else 0
        if token.type in ("blockquote_open", "list_item_open") and token.level >= MAX_NESTING - 1:
            problems = (f"line {line}: nested deeper than {MAX_NESTING} levels, what is below is left out",)
        _add_line_number(token, line)
        for child in token.children or ():
            _add_line_number(child, line)
    return str(parser.renderer.render(tokens, parser.options, {})), problems


def _add_line_number(token: Any, line: int) -> None:
    if token.type == "image":
        token.attrSet(LINE_ATTRIBUTE, str(line))
    elif token.type in ("html_block", "html_inline"):
        token.content = _IMAGE_TAG.sub(f'<img {LINE_ATTRIBUTE}="{line}"', token.content)
