"""Manuals of programs: pages as they were written, with their screenshots in place."""

from __future__ import annotations

import os.path
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lcl_core.corpora.packages import Package, apt
from lcl_core.corpora.sources.base import Material, Source
from lcl_core.corpora.steps.documents import documents_of
from lcl_core.corpora.steps.pages import Figure, Item, figures_of, items_of
from lcl_core.corpora.steps.pictures import Wanted, usual
from lcl_core.corpora.steps.rows import Built, Document
from lcl_core.corpora.steps.texts import share_of

MAX_PAGES = 5  # a picture on more than that is an icon, a logo or a warning sign
VAL = 0.05  # of the pages
_WANTED = Wanted(shortest=32, aspect=6)
_PICTURE = re.compile(r"\.(png|jpe?g|webp|gif)(\.gz)?$", re.IGNORECASE)
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


def build(manual: Manual, material: Material) -> Built:
    root = material.files[manual.package.name]
    pages = list(_pages(manual, root))
    uses = Counter(place for _, items in pages for place in {figure.image for figure in figures_of(items)})
    documents: list[Document] = []
    for page, items in pages:
        kept = list(_kept(manual.name, material, root, items, uses))
        split = "val" if share_of(f"doc:{page}") < VAL else "train"
        for number, (texts, placed) in enumerate(documents_of(kept)):
            url = f"{manual.name}:{page}#{number}"
            documents.append(Document(url, manual.name, manual.licence, tuple(texts), tuple(placed), split))
    return Built((), documents)


def _pages(manual: Manual, root: Path) -> Iterator[tuple[str, list[Item]]]:
    """Name and contents of each page with pictures, these by their files, relative to ``root``."""
    for path in sorted(root.glob(manual.pages), key=lambda path: path.as_posix()):
        main = manual.main.search(path.read_text(encoding="utf-8", errors="replace"))
        if main is None or "<img" not in main[0]:
            continue
        page = path.relative_to(root).as_posix()
        yield page, list(_located(root, page, items_of(main[0])))


def _located(root: Path, page: str, items: list[Item]) -> Iterator[Item]:
    for item in items:
        if not isinstance(item, Figure):
            yield item
        elif (place := _file(root, page, item.image)) is not None:
            yield Figure(place, item.alt)


def _file(root: Path, page: str, source: str) -> str | None:
    """The picture's file, perhaps compressed, relative to ``root``; None for what is elsewhere or no picture."""
    if not source or source.startswith(("http", "data:")):
        return None
    bare = source.split("?")[0].split("#")[0]
    place = os.path.normpath(os.path.join(os.path.dirname(page), bare))
    if place.startswith(("..", "/")):
        return None
    found = (name for name in (place, f"{place}.gz") if _PICTURE.search(name) and (root / name).is_file())
    return next(found, None)


def _kept(name: str, material: Material, root: Path, items: list[Item], uses: Counter[str]) -> Iterator[Item]:
    """The items without icons and what cannot be used, pictures by their names in the corpus."""
    for item in items:
        if not isinstance(item, Figure):
            yield item
        elif uses[item.image] <= MAX_PAGES:
            image = material.pictures.put(root / item.image, f"{name}/{_short(item.image)}", _WANTED)
            if image is not None:
                yield Figure(image, item.alt)


def _short(place: str) -> str:
    stem = os.path.splitext(place.removesuffix(".gz"))[0]
    for folder in _FOLDERS:
        stem = stem.split(folder)[-1]
    return usual(stem)


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
    Source(manual.name, manual.title, (manual.package, *manual.others), (manual.licence,), partial(build, manual))
    for manual in MANUALS
)
