"""The Open Clip Art Library: drawings with titles, descriptions and keywords by those who gave them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lcl_core.corpora.licences import PUBLIC_DOMAIN
from lcl_core.corpora.packages import apt
from lcl_core.corpora.sources.base import Material, Source
from lcl_core.corpora.steps.documents import grouped
from lcl_core.corpora.steps.drawings import shrunk
from lcl_core.corpora.steps.pictures import Wanted, in_processes
from lcl_core.corpora.steps.rows import Built, Document, Pair
from lcl_core.corpora.steps.texts import plain, split_of

_PNG, _SVG = "usr/share/openclipart/png/", "usr/share/openclipart/svg/"
_PACKAGES = (
    apt("openclipart-png", "1:0.18+dfsg-19", "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02", _PNG),
    apt("openclipart-svg", "1:0.18+dfsg-19", "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5", _SVG),
)
_WANTED = Wanted(shortest=16, aspect=5)
KEYWORDS = 6  # of a caption
LARGE_AT_ONCE = 2  # drawings as large as posters, 2 GB each while they are flattened
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
class _Words:
    title: str = ""
    description: str = ""
    keywords: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Drawing:
    """``name``: without an extension, below the library."""

    pixels: Path
    vectors: Path
    name: str
    words: _Words


def build(material: Material) -> Built:
    png, svg = (material.files[package.name] for package in _PACKAGES)
    drawings = list(_drawings(png / _PNG, svg / _SVG))
    files = [(drawing.pixels, drawing.vectors) for drawing in drawings]
    small = in_processes(partial(shrunk, side=material.pictures.side), files, processes=LARGE_AT_ONCE)
    pairs: list[Pair] = []
    for drawing, data in zip(drawings, small, strict=True):
        image = None if data is None else material.pictures.put(data, f"openclipart/{drawing.name}", _WANTED)
        if image is not None:
            pairs.append(_pair(image, drawing))
    return Built(pairs, list(documents_of_clipart(pairs)))


def documents_of_clipart(pairs: Iterable[Pair]) -> Iterator[Document]:
    """Drawings of one subcategory, with titles and keywords."""
    topic, texts = (lambda pair: pair.labels["subcategory"]), (lambda pair: pair.captions[-1:])
    return grouped(pairs, topic, texts, PUBLIC_DOMAIN, _title)


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
        words = _words_of(vectors, path.stem)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if len(words.title) >= 3 and digest not in known:
            known.add(digest)
            yield _Drawing(path, vectors, name, words)


def _words_of(svg: Path, stem: str) -> _Words:
    """What the drawing says of itself; where its title names a collection, the name of its file."""
    said = _said_in(svg.read_text(encoding="utf-8", errors="replace")) if svg.is_file() else _Words()
    title = said.title
    if not title or _VAGUE.search(title):
        title = re.sub(r"[_\d.]+$", "", stem).replace("_", " ")
    return _Words(plain(re.sub(r"[_#]+|\b\d+\b", " ", title)), said.description, said.keywords)


def _said_in(svg: str) -> _Words:
    found = _METADATA.search(svg)
    if found is None:
        return _Words()
    metadata = _PEOPLE.sub("", found[0])
    listed = [plain(word).lower() for word in re.findall(r"<rdf:li[^>]*>([^<]*)", metadata)]
    keywords = tuple(word for word in dict.fromkeys(listed) if word and not _NO_KEYWORD.match(word))
    return _Words(_field(metadata, "title"), _field(metadata, "description"), keywords)


def _field(metadata: str, name: str) -> str:
    found = re.search(rf"<dc:{name}[^>]*>([^<]*)", metadata)
    return plain(found[1]) if found else ""


def _pair(image: str, drawing: _Drawing) -> Pair:
    words, folders = drawing.words, drawing.name.split("/")
    labels = {"category": folders[0], "subcategory": "/".join(folders[:2]) if len(folders) > 2 else folders[0]}
    split = split_of("oca:" + re.sub(r"\W|\d", "", words.title.lower()))  # all variants of a title on one side
    captions = tuple(_captions(words))
    return Pair(image, captions, labels, split, "openclipart", PUBLIC_DOMAIN, keywords=words.keywords)


def _captions(words: _Words) -> Iterator[str]:
    yield words.title
    said = words.description
    if said.lower().rstrip(".") != words.title.lower() and not _VAGUE.search(said) and len(said.split()) > 2:
        yield said
    if words.keywords:
        yield f"{words.title}: {', '.join(words.keywords[:KEYWORDS])}"


SOURCE = Source(
    "openclipart", "the Open Clip Art Library with titles and keywords", _PACKAGES, (PUBLIC_DOMAIN,), build
)
