"""A folder, a zip or a single file of pages as a reader: what HTML and Markdown have in common."""

from __future__ import annotations

import os
import re
from abc import abstractmethod
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from lcl_core.data.document import ImageSegment
from lcl_core.data.readers.base import Reader
from lcl_core.data.readers.images import ImageFinder
from lcl_core.data.readers.options import ReaderOptions
from lcl_core.data.readers.pages.cuts import Unit, cut, picture_unit, text_units
from lcl_core.data.readers.pages.items import Figure, Item, Page, Words
from lcl_core.data.readers.pages.pictures import Found, Pictures
from lcl_core.data.readers.pages.references import Refused
from lcl_core.data.readers.pages.repeats import Repeats
from lcl_core.data.readers.pages.sentences import split_sentences
from lcl_core.data.readers.pages.texts import kept_alt, same_text
from lcl_core.data.readers.values import BadValue, well_formed
from lcl_core.data.record import BadItem, Picture, Record, Sequence
from lcl_core.data.store import FolderStore, Store, ZipStore
from lcl_core.errors import UserError

_SNIFFED = 5000  # files looked at,
_OTHERS = 100  # of which so many of one folder may be no pages: sites keep thousands of images in one
_ABOUT = re.compile(r"(?:readme|licen[cs]e|changelog|contributing)\b[^/]*$", re.I)


class PageOptions(ReaderOptions):
    """Options of readers of pages.

    Attributes:
        images: a folder or tars of the images that pages have on other sites, found by URL; never fetched.
        max_uses: a picture on more pages than that is an icon.
        min_side: a picture with a shorter side is an icon, px.
        max_aspect: a picture longer than that, long side over short side, is a rule or a banner.
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


class SiteReader(Reader[PageOptions]):
    """Walks a site twice: what repeats over its pages is counted first."""

    options_type = PageOptions
    suffixes: ClassVar[tuple[str, ...]]

    @staticmethod
    @abstractmethod
    def parse(data: bytes) -> Page:
        """A page's content. Raises: BadValue; UserError ``missing_extra``."""

    @classmethod
    def sniff(cls, path: Path) -> bool:
        """A page, or a folder or zip where one file in ten is one (a dataset's readme does not make it a site)."""
        if path.is_file() and path.suffix.lower() != ".zip":
            return path.suffix.lower() in cls.suffixes
        names = list(ZipStore(path).names() if path.is_file() else islice(cls._some_files(path), _SNIFFED))
        pages = sum(cls._is_page(name) and not _ABOUT.match(name) for name in names)
        return pages > 0 and 10 * pages >= len(names)

    def records(self) -> Iterator[Record | BadItem]:
        """Documents page by page; a picture left out as an icon is told of once."""
        store, names = self._site()
        options = self.options
        finder = ImageFinder(options.images) if options.images is not None else None
        yield from finder.problems if finder is not None else ()
        pictures = Pictures(store, finder, options.min_side, options.max_aspect)
        walk = _Walk(pictures, self._survey(store, names, pictures), options)
        for name in names:
            page = self._read(store, name)
            if isinstance(page, BadItem):
                yield page
            else:
                yield from walk.documents(page, name)

    def _site(self) -> tuple[Store, list[str]]:
        if self.path.is_file() and self.path.suffix.lower() != ".zip":
            return FolderStore(self.path.parent), [self.path.name]
        store: Store = ZipStore(self.path) if self.path.is_file() else FolderStore(self.path)
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
            others = [name for name in files if not cls._is_page(name)][:_OTHERS]
            yield from (name if below == "." else f"{below}/{name}" for name in pages + others)

    @classmethod
    def _is_page(cls, name: str) -> bool:
        return name.lower().endswith(cls.suffixes) and not name.startswith("__MACOSX/")

    def _survey(self, store: Store, names: list[str], pictures: Pictures) -> Repeats:
        repeats = Repeats(len(names))
        for number, name in enumerate(names):
            page = self._read(store, name)
            if isinstance(page, BadItem):
                continue
            found = [pictures.find(item.sources, name, page.base) for item in page.items if isinstance(item, Figure)]
            repeats.add(number, page.block_texts().values(), [at.key for at in found if isinstance(at, Found)])
        repeats.seal()
        return repeats

    def _read(self, store: Store, name: str) -> Page | BadItem:
        shown = well_formed(name)
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


class _Walk:
    """Makes documents of pages, and remembers what it has told of."""

    def __init__(self, pictures: Pictures, repeats: Repeats, options: PageOptions) -> None:
        self._pictures = pictures
        self._repeats = repeats
        self._options = options
        self._told: set[str] = set()

    def documents(self, page: Page, name: str) -> Iterator[Record | BadItem]:
        shown = well_formed(name)
        yield from (BadItem(shown, 0, "bad page", problem) for problem in page.problems)
        kept: list[tuple[Item, Found | None]] = []
        texts = page.block_texts()
        for item in page.items:
            found = self._repeated(item, texts) if isinstance(item, Words) else self._pictured(item, name, page.base)
            if isinstance(found, Refused):
                if found.detail:
                    yield BadItem(shown, item.line, found.reason, found.detail)
                captions = item.captions if isinstance(item, Figure) else []
                kept += [(Words(text, -1, 0, item.line), None) for text in captions]  # they can be read without it
            else:
                kept.append((item, found))
        units = self._units(kept)
        if not units:
            yield BadItem(shown, 0, "empty document", "the page has neither text nor images")
        pictures = {found.picture.name: found.picture for _, found in kept if found is not None}
        for number, piece in enumerate(cut(units, self._options.max_images, self._options.max_words)):
            yield _record(shown, number, page.title, piece, pictures)

    def _repeated(self, words: Words, texts: dict[int, str]) -> Refused | None:
        """Why words are left out: most pages have their block. No detail: that is told already."""
        text = texts[words.block]
        share = "" if words.level > 1 else self._repeats.share(text)
        return self._once("repeated text", text, f"on {share}: {text[:100]!r}") if share else None

    def _pictured(self, item: Figure, name: str, base: str) -> Found | Refused:
        """The picture of a figure, or why it is left out, likewise."""
        found = self._pictures.find(item.sources, name, base)
        if isinstance(found, Refused):
            return found
        uses = self._repeats.uses(found.key)
        if uses > self._options.max_uses:
            return self._once("repeated picture", found.key, f"{found.key[:200]}: on {uses:,} pages")
        verdict = self._pictures.judge(found)
        if verdict is not None and verdict.reason in ("small picture", "long picture"):
            return self._once(verdict.reason, found.key, verdict.detail)
        return verdict or found

    def _once(self, reason: str, key: str, detail: str) -> Refused:
        mark = f"{reason} {key}"
        told = mark in self._told
        self._told.add(mark)
        return Refused(reason, "" if told else detail)

    def _units(self, kept: list[tuple[Item, Found | None]]) -> list[Unit]:
        units: list[Unit] = []
        limit = self._options.max_words
        for item, found in _joined(kept):
            if isinstance(item, Words):
                texts = [item.text] if item.level else split_sentences(item.text)
                units += (unit for text in texts for unit in text_units(text, item.level > 0, limit))
            elif found is not None:
                units += picture_unit(found.picture.name, _texts_of(item), limit)
        return units


def _joined(kept: list[tuple[Item, Found | None]]) -> Iterator[tuple[Item, Found | None]]:
    """Words of one block, between which an icon stood, as one."""
    waiting: list[Words] = []
    for item, found in kept:
        if waiting and not (isinstance(item, Words) and item.block == waiting[0].block >= 0):
            yield _as_one(waiting), None
            waiting = []
        if isinstance(item, Words):
            waiting.append(item)
        else:
            yield item, found
    if waiting:
        yield _as_one(waiting), None


def _as_one(words: list[Words]) -> Words:
    first = words[0]
    return Words(" ".join(part.text for part in words), first.block, first.level, first.line)


def _texts_of(figure: Figure) -> list[str]:
    """What stands right after an image: its alternative text, unless a caption says the same, and its captions."""
    captions = list(dict.fromkeys(figure.captions))
    alt = kept_alt(figure.alt)
    return [alt, *captions] if alt and not any(same_text(alt, caption) for caption in captions) else captions


def _record(page: str, number: int, title: str, piece: list[Unit], pictures: dict[str, Picture]) -> Record:
    segments = tuple(segment for unit in piece for segment in unit.segments)
    names = dict.fromkeys(segment.name for segment in segments if isinstance(segment, ImageSegment))
    return Record(
        id=f"{page}#{number}" if number else page,
        body=Sequence(segments),
        pictures=tuple(pictures[name] for name in names),
        extra={"page": page, "title": title} if title else {"page": page},
    )
