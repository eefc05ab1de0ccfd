"""Manuals of programs: pages as they were written, with their screenshots in place."""

from __future__ import annotations

import os.path
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lcl_core.dataset_builder.documents import (
    DocumentRow,
    PageContent,
    PageImage,
    SourceRows,
    build_documents,
    hash_fraction,
    page_images,
    page_items,
)
from lcl_core.dataset_builder.images import ImageOptions, safe_image_name
from lcl_core.dataset_builder.packages import Package, apt
from lcl_core.dataset_builder.sources.base import CorpusSource, SourceFiles

MAX_PAGES = 5  # a picture on more than that is an icon, a logo or a warning sign
VAL = 0.05  # of the pages
_IMAGE_OPTIONS = ImageOptions(shortest=32, aspect=6)
_IMAGE_FILE = re.compile(r"\.(png|jpe?g|webp|gif)(\.gz)?$", re.IGNORECASE)
_BODY = re.compile(r"<body[^>]*>.*</body>", re.DOTALL)
_FOLDERS = ("/help/", "/html/", "usr/share/")  # what is before them is left out of names


@dataclass(frozen=True, slots=True)
class Manual:
    """Where a manual's pages lie.

    Attributes:
        pages: pattern of their names.
        main: what of a page is its content.
        others: further packages, for what the first one only links to.
    """

    name: str
    title: str
    licence: str
    package: Package
    pages: str
    main: re.Pattern[str] = _BODY
    others: tuple[Package, ...] = ()


def build(manual: Manual, material: SourceFiles) -> SourceRows:
    root = material.files[manual.package.name]
    pages = list(_pages(manual, root))
    uses = Counter(place for _, items in pages for place in {figure.image for figure in page_images(items)})
    documents: list[DocumentRow] = []
    for page, items in pages:
        kept = list(_usable_items(manual.name, material, root, items, uses))
        split = "val" if hash_fraction(f"doc:{page}") < VAL else "train"
        for number, (texts, placed) in enumerate(build_documents(kept)):
            url = f"{manual.name}:{page}#{number}"
            documents.append(DocumentRow(url, manual.name, manual.licence, tuple(texts), tuple(placed), split))
    return SourceRows((), documents)


def _pages(manual: Manual, root: Path) -> Iterator[tuple[str, list[PageContent]]]:
    """Name and contents of each page with pictures, these by their files, relative to ``root``."""
    for path in sorted(root.glob(manual.pages), key=lambda path: path.as_posix()):
        main = manual.main.search(path.read_text(encoding="utf-8", errors="replace"))
        if main is None or "<img" not in main[0]:
            continue
        page = path.relative_to(root).as_posix()
        yield page, list(_locate_images(root, page, page_items(main[0])))


def _locate_images(root: Path, page: str, items: list[PageContent]) -> Iterator[PageContent]:
    for item in items:
        if not isinstance(item, PageImage):
            yield item
        elif (place := _image_file(root, page, item.image)) is not None:
            yield PageImage(place, item.alt)


def _image_file(root: Path, page: str, source: str) -> str | None:
    """The picture's file, perhaps compressed, relative to ``root``; None for what is elsewhere or no picture."""
    if not source or source.startswith(("http", "data:")):
        return None
    bare = source.split("?")[0].split("#")[0]
    place = os.path.normpath(os.path.join(os.path.dirname(page), bare))
    if place.startswith(("..", "/")):
        return None
    found = (name for name in (place, f"{place}.gz") if _IMAGE_FILE.search(name) and (root / name).is_file())
    return next(found, None)


def _usable_items(
    name: str, material: SourceFiles, root: Path, items: list[PageContent], uses: Counter[str]
) -> Iterator[PageContent]:
    """The items without icons and what cannot be used, pictures by their names in the corpus."""
    for item in items:
        if not isinstance(item, PageImage):
            yield item
        elif uses[item.image] <= MAX_PAGES:
            image = material.pictures.put(root / item.image, f"{name}/{_image_name(item.image)}", _IMAGE_OPTIONS)
            if image is not None:
                yield PageImage(image, item.alt)


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
        f"{_DOC}blender-doc/html/**/*.html", re.compile(r"<article[^>]*>.*?</article>", re.DOTALL)),
    Manual("gimp", "GIMP's manual", "GFDL-1.2+ no invariants", apt(
        "gimp-help-en", "3.0.0-4", "b18e0b0763de45eb66a65305c443cf2a03572ec42fc01d6bb2817c5b33e600bf",
        "usr/share/gimp/3.0/help/en/"),
        "usr/share/gimp/3.0/help/en/*.html",
        others=(apt("gimp-help-common", "3.0.0-4",
                    "53a694f8cfe47d04aac2e197b91744e1600d7886c5695b8ecb8dee9f527897bb"),)),
    Manual("gnucash", "GnuCash's manual and guide", "GFDL-1.1+ no invariants", apt(
        "gnucash-docs", "5.10-0.1", "ae8609e8cbc846be54ccd08dab6cae21b1012386f5ee474ca88544f01314b7a4",
        # some English pictures are links to the German translation's
        *(f"{_DOC}gnucash-docs/gnucash-{part}/" for part in (
            "guide-en", "manual-en", "guide-de/figures", "manual-de/figures"))),
        f"{_DOC}gnucash-docs/gnucash-*-en/*.html"),
    Manual("openshot", "OpenShot's guide", "GPL-3.0-or-later", apt(
        "openshot-qt-doc", "3.1.1+dfsg1-3", "fcb9d7ecb26e7120da35f8bc86764ed219915d3af42e9f3cd8c56be7c3ac8c2a",
        f"{_DOC}openshot-qt/html/"),
        f"{_DOC}openshot-qt/html/**/*.html", re.compile(r'<div role="main".*', re.DOTALL)),
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
