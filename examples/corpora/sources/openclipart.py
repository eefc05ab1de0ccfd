"""The Open Clip Art Library: drawings with titles, descriptions and keywords by those who gave them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from examples.corpora.images import ImageOptions, map_in_processes, shrink_drawing
from examples.corpora.packages import apt
from examples.corpora.rows import (
    DocumentRow,
    PairRow,
    SourceRows,
    group_documents,
    plain_text,
    split_by_hash,
)
from examples.corpora.sources.base import PUBLIC_DOMAIN, CorpusSource, SourceFiles

_PNG, _SVG = "usr/share/openclipart/png/", "usr/share/openclipart/svg/"
_PACKAGES = (
    apt("openclipart-png", "1:0.18+dfsg-19", "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02", _PNG),
    apt("openclipart-svg", "1:0.18+dfsg-19", "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5", _SVG),
)
_IMAGE_OPTIONS = ImageOptions(shortest=16, aspect=5)
KEYWORDS = 6  # of a caption
LARGE_PROCESSES = 2  # drawings as large as posters, 2 GB each while they are flattened
# folders of parts, buttons and the like
_SKIPPED = re.compile(
    r"(shapes/stars|shapes/(jigsaw|arrows|callouts|flowchart)|recreation/games/(cards|.*cards)|"
    r"computer/(icons|buttons|folders)|special/|signs_and_symbols/led|unsorted/duplicates)"
)
# titles of a collection, or of nothing
_VAGUE = re.compile(
    r"icons?$|collection|gramastar|AIGA|clip ?arts?\b|theme|^\w?\d+$|^card$|\.svg|untitled|etiquette", re.IGNORECASE
)
_METADATA = re.compile(r"<metadata.*?</metadata>", re.DOTALL)
_PEOPLE = re.compile(r"<dc:(creator|publisher|rights|contributor)>.*?</dc:\1>", re.DOTALL)
_NO_KEYWORD = re.compile(r"hash|unsorted|.*[^\x00-\x7f]")


@dataclass(frozen=True, slots=True)
class _DrawingTexts:
    title: str = ""
    description: str = ""
    keywords: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Drawing:
    """``name``: without an extension, below the library."""

    pixels: Path
    vectors: Path
    name: str
    words: _DrawingTexts


def build(files: SourceFiles) -> SourceRows:
    png, svg = (files.packages[package.name] for package in _PACKAGES)
    drawings = list(_drawings(png / _PNG, svg / _SVG))
    paths = [(drawing.pixels, drawing.vectors) for drawing in drawings]
    small = map_in_processes(partial(shrink_drawing, side=files.images.side), paths, processes=LARGE_PROCESSES)
    pairs: list[PairRow] = []
    for drawing, data in zip(drawings, small, strict=True):
        image = None if data is None else files.images.put(data, f"openclipart/{drawing.name}", _IMAGE_OPTIONS)
        if image is not None:
            pairs.append(_pair(image, drawing))
    return SourceRows(pairs, list(clipart_documents(pairs)))


def clipart_documents(pairs: Iterable[PairRow]) -> Iterator[DocumentRow]:
    """Drawings of one subcategory, with titles and keywords."""
    topic, texts = (lambda pair: pair.labels["subcategory"]), (lambda pair: pair.captions[-1:])
    return group_documents(pairs, topic, texts, PUBLIC_DOMAIN, _title)


def _title(topic: str) -> str:
    return "" if topic == "unsorted" else topic.replace("/", ", ").replace("_", " ") + "."


def _drawings(png: Path, svg: Path) -> Iterator[_Drawing]:
    """Those with a title, each contents once. Links are second names."""
    known: set[str] = set()
    paths = (path for path in png.rglob("*.png") if not path.is_symlink())
    for path in sorted(paths, key=lambda path: (path.parent.as_posix(), path.name)):
        name = path.relative_to(png).as_posix()[: -len(".png")]
        if _SKIPPED.match(name):
            continue
        vectors = svg / f"{name}.svg"
        words = _read_texts(vectors, path.stem)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if len(words.title) >= 3 and digest not in known:
            known.add(digest)
            yield _Drawing(path, vectors, name, words)


def _read_texts(svg: Path, stem: str) -> _DrawingTexts:
    """What the drawing says of itself; where its title names a collection, the name of its file."""
    said = _parse_metadata(svg.read_text(encoding="utf-8", errors="replace")) if svg.is_file() else _DrawingTexts()
    title = said.title
    if not title or _VAGUE.search(title):
        title = re.sub(r"[_\d.]+$", "", stem).replace("_", " ")
    return _DrawingTexts(plain_text(re.sub(r"[_#]+|\b\d+\b", " ", title)), said.description, said.keywords)


def _parse_metadata(svg: str) -> _DrawingTexts:
    found = _METADATA.search(svg)
    if found is None:
        return _DrawingTexts()
    metadata = _PEOPLE.sub("", found[0])
    listed = [plain_text(word).lower() for word in re.findall(r"<rdf:li[^>]*>([^<]*)", metadata)]
    keywords = tuple(word for word in dict.fromkeys(listed) if word and not _NO_KEYWORD.match(word))
    return _DrawingTexts(_field(metadata, "title"), _field(metadata, "description"), keywords)


def _field(metadata: str, name: str) -> str:
    found = re.search(rf"<dc:{name}[^>]*>([^<]*)", metadata)
    return plain_text(found[1]) if found else ""


def _pair(image: str, drawing: _Drawing) -> PairRow:
    words, folders = drawing.words, drawing.name.split("/")
    labels = {"category": folders[0], "subcategory": "/".join(folders[:2]) if len(folders) > 2 else folders[0]}
    split = split_by_hash("oca:" + re.sub(r"\W|\d", "", words.title.lower()))  # all variants of a title on one side
    captions = tuple(_captions(words))
    pair = PairRow(image, captions, labels, split, "openclipart", PUBLIC_DOMAIN)
    return replace(pair, name=words.title, keywords=words.keywords)


def _captions(words: _DrawingTexts) -> Iterator[str]:
    yield words.title
    said = words.description
    if said.lower().rstrip(".") != words.title.lower() and not _VAGUE.search(said) and len(said.split()) > 2:
        yield said
    if words.keywords:
        yield f"{words.title}: {', '.join(words.keywords[:KEYWORDS])}"


SOURCE = CorpusSource(
    "openclipart", "the Open Clip Art Library with titles and keywords", _PACKAGES, (PUBLIC_DOMAIN,), build
)
