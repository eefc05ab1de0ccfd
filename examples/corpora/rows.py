"""Rows of a built corpus, and documents made of HTML pages or of images of one topic with their texts."""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lcl_core.common.errors import UserError
from lcl_core.common.files import write_atomically
from lcl_core.data.formats.html.chunking import split_sentences
from lcl_core.data.formats.html.parser import ImageItem, PageItem

MAX_IMAGES, MAX_WORDS, MIN_WORDS = 8, 320, 12
GROUP_SIZE, MIN_GROUP_SIZE = 6, 2
# sentences tried for an image, relative to the one before which it stands, the likeliest first
_CAPTION_OFFSETS = (0, -1, 1, -2)
_NEAR_OFFSETS = (-1, 0, -2, 1, -3, 2)
Json = dict[str, Any]
K = TypeVar("K", bound="str | tuple[str, ...]")


@dataclass(frozen=True, slots=True)
class PairRow:
    """An image and its texts, a line of ``pairs``.

    Attributes:
        name, keywords: of what the image shows, where the source has them; captions may be composed of them.
        attributes: adjectives that are true of the image: its main colour, where it has one.
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
    name: str | None = None
    attributes: tuple[str, ...] | None = None

    def to_json(self) -> Json:
        texts = ("image", "captions", "name", "keywords", "attributes")
        order = (*texts, "labels", "vendor", "split", "source", "licence")
        values = ((name, getattr(self, name)) for name in order)
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values if v is not None}


@dataclass(frozen=True, slots=True)
class PlacedImage:
    """An image of a document: the ``sentence`` it is matched to, and the one ``before`` which it stands."""

    image: str
    sentence: int
    before: int
    alt: str = ""


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """Sentences, and images matched to some of them by the structure of their source: similarity 1."""

    url: str
    source: str
    licence: str
    sentences: tuple[str, ...]
    images: tuple[PlacedImage, ...]
    split: str = "train"

    def to_json(self) -> Json:
        images = [
            {"image_name": placed.image, "raw_url": None, "matched_text_index": placed.sentence, "matched_sim": 1.0}
            | {"insert_before": placed.before, "alt": placed.alt}
            for placed in self.images
        ]
        row = {"url": self.url, "source": self.source, "licence": self.licence}
        return {**row, "text_list": list(self.sentences), "image_info": images}


@dataclass(frozen=True, slots=True)
class SourceRows:
    """Rows of one source."""

    pairs: Sequence[PairRow] = ()
    documents: Sequence[DocumentRow] = ()


def write_rows(path: Path, rows: Iterable[Json]) -> None:
    """JSON lines. The file is made, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_rows(path: Path) -> list[Json]:
    """Raises: UserError ``corpus_unreadable``."""
    if not path.is_file():
        raise UserError("there is no such file", code="corpus_unreadable", file=path)
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def plain_text(text: str | None) -> str:
    """Entities resolved, whitespace collapsed."""
    return " ".join(html.unescape(text or "").split())


def hash_fraction(key: str) -> float:
    """A number in [0, 1) that depends on ``key`` alone: the first 32 bits of its SHA-1."""
    digest = hashlib.sha1(key.encode(), usedforsecurity=False).hexdigest()
    return int(digest[:8], 16) / 2**32


def split_by_hash(key: str, val: float = 0.05, test: float = 0.10) -> str:
    """The same split for all rows of one ``key``."""
    fraction = hash_fraction(f"split:{key}")
    if fraction < test:
        return "test"
    return "val" if fraction < test + val else "train"


def build_documents(
    items: Sequence[PageItem], max_words: int = MAX_WORDS
) -> Iterator[tuple[list[str], list[PlacedImage]]]:
    """Chunks of a page that have an image and enough words: sentences, and images matched to one each.

    An image goes to its caption if it has one, else to the nearest free sentence before it, else to the one after; no
    sentence is matched twice. The first source of an image is its name.
    """
    for chunk in _split_page(items, max_words):
        texts: list[str] = []
        captions: set[int] = set()
        images: list[tuple[ImageItem, int]] = []
        for item in chunk:
            if isinstance(item, ImageItem):
                images.append((item, len(texts)))
                captions.update(range(len(texts), len(texts) + len(item.captions)))
                texts += item.captions
            else:
                texts += [item.text] if item.level else split_sentences(item.text)
        placed = list(_match_images(texts, captions, images))
        if placed and sum(len(text.split()) for text in texts) >= MIN_WORDS:
            yield texts, placed


def _split_page(items: Sequence[PageItem], max_words: int) -> Iterator[list[PageItem]]:
    chunk: list[PageItem] = []
    words = images = 0
    for item in items:
        is_image = isinstance(item, ImageItem)
        more = sum(len(text.split()) for text in (item.captions if isinstance(item, ImageItem) else [item.text]))
        if chunk and (images >= MAX_IMAGES if is_image else words + more > max_words):
            yield chunk
            chunk, words, images = [], 0, 0
        chunk.append(item)
        words += more
        images += is_image
    if chunk:
        yield chunk


def _match_images(texts: list[str], captions: set[int], images: list[tuple[ImageItem, int]]) -> Iterator[PlacedImage]:
    matched: set[int] = set()
    for image, before in images:
        near = [before + step for step in _CAPTION_OFFSETS if before + step in captions]
        near += [before + step for step in _NEAR_OFFSETS]
        sentence = next((each for each in near if 0 <= each < len(texts) and each not in matched), None)
        if sentence is not None:
            matched.add(sentence)
            yield PlacedImage(image.sources[0], sentence, before, image.alt)


def group_documents(
    pairs: Iterable[PairRow],
    key: Callable[[PairRow], K],
    texts: Callable[[PairRow], Sequence[str]],
    licence: str,
    title: Callable[[K], str] = lambda _: "",
) -> Iterator[DocumentRow]:
    """Documents of training images of one topic, each before its own text, ordered by a hash of their names.

    Args:
        licence: of all the works.
        title: first sentence of a topic's documents, or "".
    """
    groups: dict[K, list[PairRow]] = {}
    for pair in pairs:
        if pair.split == "train":
            groups.setdefault(key(pair), []).append(pair)
    for topic, members in sorted(groups.items(), key=lambda group: group[0]):
        members.sort(key=lambda pair: hash_fraction(f"order:{pair.image}"))
        for start in range(0, len(members), GROUP_SIZE):
            chunk = members[start : start + GROUP_SIZE]
            if len(chunk) < MIN_GROUP_SIZE:
                continue
            sentences = [title(topic)] if title(topic) else []
            images = []
            for pair in chunk:
                images.append(PlacedImage(pair.image, len(sentences), len(sentences)))
                sentences += texts(pair)
            source = chunk[0].source
            yield DocumentRow(f"{source}:{topic}/{start}", source, licence, tuple(sentences), tuple(images))
