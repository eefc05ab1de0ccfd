"""Manuals of programs: pages as they were written, with their screenshots in place."""

from __future__ import annotations

import os.path
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from examples.corpora.images import ImageOptions, safe_image_name
from examples.corpora.packages import Package, apt
from examples.corpora.rows import DocumentRow, SourceRows, build_documents, hash_fraction
from examples.corpora.sources.base import CorpusSource, SourceFiles
from lcl_core.data.formats.html.parser import ImageItem, PageItem, TextItem, parse_page
from lcl_core.data.jsonl import BadValue

MAX_PAGES = 5  # an image on more than that is an icon, a logo or a warning sign
VAL = 0.10  # of the pages
_IMAGE_OPTIONS = ImageOptions(shortest=32, aspect=6)
_IMAGE_FILE = re.compile(r"\.(png|jpe?g|webp|gif)(\.gz)?$", re.IGNORECASE)
_FOLDERS = ("/help/", "/html/", "usr/share/")  # what is before them is left out of names


@dataclass(frozen=True, slots=True)
class Manual:
    """Where a manual's pages lie.

    Attributes:
        pages: pattern of their names.
        others: further packages, for what the first one only links to.
    """

    name: str
    title: str
    licence: str
    package: Package
    pages: str
    others: tuple[Package, ...] = ()


def build(manual: Manual, files: SourceFiles) -> SourceRows:
    root = files.packages[manual.package.name]
    pages = list(_pages(manual, root))
    uses = Counter(name for _, items in pages for name in {item.sources[0] for item in _images(items)})
    documents: list[DocumentRow] = []
    for page, items in pages:
        kept = list(_save_images(manual.name, files, root, items, uses))
        split = "val" if hash_fraction(f"doc:{page}") < VAL else "train"
        for number, (texts, placed) in enumerate(build_documents(kept)):
            url = f"{manual.name}:{page}#{number}"
            documents.append(DocumentRow(url, manual.name, manual.licence, tuple(texts), tuple(placed), split))
    return SourceRows((), documents)


def _images(items: Iterable[PageItem]) -> Iterator[ImageItem]:
    return (item for item in items if isinstance(item, ImageItem))


def _pages(manual: Manual, root: Path) -> Iterator[tuple[str, list[PageItem]]]:
    """Name and items of each page with images; an image has one source, its file relative to ``root``."""
    for path in sorted(root.glob(manual.pages), key=lambda path: path.as_posix()):
        try:
            items = parse_page(path.read_text(encoding="utf-8", errors="replace")).items
        except BadValue:
            continue
        if any(_images(items)):
            page = path.relative_to(root).as_posix()
            yield page, list(_replace_images(items, partial(_image_file, root, page)))


def _replace_images(items: Iterable[PageItem], name_of: Callable[[ImageItem], str | None]) -> Iterator[PageItem]:
    """The items with images named by ``name_of``; of an image without a name the captions stay, as texts."""
    for item in items:
        name = name_of(item) if isinstance(item, ImageItem) else None
        if not isinstance(item, ImageItem):
            yield item
        elif name is not None:
            yield replace(item, sources=(name,))
        else:
            yield from (TextItem(caption, item.block) for caption in item.captions)


def _image_file(root: Path, page: str, item: ImageItem) -> str | None:
    """The image's file, maybe gzipped, relative to ``root``; None if it has none there."""
    source = item.sources[0] if item.sources else "data:"
    if source.startswith(("http", "data:")):
        return None
    name = os.path.normpath(os.path.join(os.path.dirname(page), source.split("?")[0].split("#")[0]))
    if name.startswith(("..", "/")):
        return None
    names = (name, f"{name}.gz")
    return next((each for each in names if _IMAGE_FILE.search(each) and (root / each).is_file()), None)


def _save_images(
    name: str, files: SourceFiles, root: Path, items: list[PageItem], uses: Counter[str]
) -> Iterator[PageItem]:
    """The items without icons and unusable images; images have their names in the corpus."""

    def save(item: ImageItem) -> str | None:
        source = item.sources[0]
        if uses[source] > MAX_PAGES:
            return None
        return files.images.put(root / source, f"{name}/{_image_name(source)}", _IMAGE_OPTIONS)

    return _replace_images(items, save)


def _image_name(place: str) -> str:
    stem = os.path.splitext(place.removesuffix(".gz"))[0]
    for folder in _FOLDERS:
        stem = stem.split(folder)[-1]
    return safe_image_name(stem)


_DOC = "usr/share/doc/"
MANUALS = (
    Manual("blender", "the Blender manual", "CC-BY-SA-4.0", apt(
        "blender-doc", "4.3-1", "5b6a1393428420e3e4cdc41dd982a7909f309a5a0c648d476325066058e4ea02",
        f"{_DOC}blender-doc/html/"),
        f"{_DOC}blender-doc/html/**/*.html"),
    Manual("gimp", "GIMP's manual", "GFDL-1.2+ no invariants", apt(
        "gimp-help-en", "3.0.0-4", "b18e0b0763de45eb66a65305c443cf2a03572ec42fc01d6bb2817c5b33e600bf",
        "usr/share/gimp/3.0/help/en/"),
        "usr/share/gimp/3.0/help/en/*.html",
        others=(apt("gimp-help-common", "3.0.0-4",
                    "53a694f8cfe47d04aac2e197b91744e1600d7886c5695b8ecb8dee9f527897bb"),)),
    Manual("gnucash", "GnuCash's manual and guide", "GFDL-1.1+ no invariants", apt(
        "gnucash-docs", "5.10-0.1", "ae8609e8cbc846be54ccd08dab6cae21b1012386f5ee474ca88544f01314b7a4",
        # some English images are links to the German translation's
        *(f"{_DOC}gnucash-docs/gnucash-{part}/" for part in (
            "guide-en", "manual-en", "guide-de/figures", "manual-de/figures"))),
        f"{_DOC}gnucash-docs/gnucash-*-en/*.html"),
    Manual("openshot", "OpenShot's guide", "GPL-3.0-or-later", apt(
        "openshot-qt-doc", "3.1.1+dfsg1-3", "fcb9d7ecb26e7120da35f8bc86764ed219915d3af42e9f3cd8c56be7c3ac8c2a",
        f"{_DOC}openshot-qt/html/"),
        f"{_DOC}openshot-qt/html/**/*.html"),
    Manual("pngguide", "the book PNG: The Definitive Guide", "GFDL-1.1+ no invariants", apt(
        "png-definitive-guide", "20060430-4", "3a6f84106f6dbba83663d6e19a4a901b503b75a31ae35623b9194582299dacd6",
        f"{_DOC}png-definitive-guide/"),
        f"{_DOC}png-definitive-guide/**/*.html"),
    Manual("munipack", "Munipack's guide to photometry", "GPL-3.0-or-later", apt(
        "munipack-doc", "0.6.2-1", "bac9f5dfb9199143edfe11041dd430fc8521854563a7d9e02e55d78ff95db053",
        f"{_DOC}munipack/"),
        f"{_DOC}munipack/**/*.html"),
    Manual("grass", "GRASS GIS's manual", "GPL-2.0-or-later", apt(
        "grass-doc", "8.4.1-1", "99d5d9b2e7c3e9c4bc723bfe11615da1cb3777d4f00ff1e2481d7b1f7b25cbfb",
        f"{_DOC}grass-doc/html/"),
        f"{_DOC}grass-doc/html/*.html"),
)  # fmt: skip
SOURCES = tuple(
    CorpusSource(manual.name, manual.title, (manual.package, *manual.others), (manual.licence,), partial(build, manual))
    for manual in MANUALS
)
