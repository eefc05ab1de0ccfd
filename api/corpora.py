"""Corpora as the API shows them: opened on demand and leafed through. Imports readers when asked."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from api.errors import Problem
from api.statistics import examine
from lcl_core.errors import UserError
from lcl_core.roots import Root

if TYPE_CHECKING:
    from lcl_core.data.corpus import Corpus
    from lcl_core.data.pairs import Pair
    from lcl_core.data.tokenizer import Tokenizer

__all__ = ["Corpora", "View", "Wanted", "examine", "image_url", "page", "picture"]
MAX_OPEN = 8
DISTANT_SECONDS = 60  # a corpus behind a URL that changed is seen after at most this
IMAGE_TOKENS = 49 + 2  # what a picture takes in a row: its tokens and the marks around them
MAX_SHOWN = 20_000  # characters of one segment
CHANGING = ("interleaved.jsonl", "interleaved", "pairs.jsonl", "pairs", "index.json")
View = Literal["interleaved", "pairs"]
Stamp = tuple[tuple[int, int], ...]
SIGNATURES = ((b"\x89PNG", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"))


@dataclass(frozen=True)
class Wanted:
    """Which documents of a corpus, and what of them."""

    view: View = "interleaved"
    offset: int = 0
    limit: int = 20
    split: str | None = None
    source: str | None = None
    tokens: bool = False


class Corpora:
    """The corpora that somebody looked at lately. Thread-safe."""

    def __init__(self) -> None:
        self._open: OrderedDict[Root, tuple[Stamp, Corpus]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, place: Root) -> Corpus:
        """Open, or opened before and unchanged since. Raises: UserError naming the file."""
        from lcl_core.data.corpus import open_corpus

        stamp = _stamp(place)
        with self._lock:
            known = self._open.get(place)
        if known is None or known[0] != stamp:
            known = stamp, open_corpus(place)  # without the lock: a distant one may take its time
        with self._lock:
            self._open[place] = known
            self._open.move_to_end(place)
            while len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)
        return known[1]


def _stamp(place: Root) -> Stamp:
    """Times and sizes of what changes when a corpus does. A folder's own time does not when a line is appended.

    Behind a URL nobody is asked for every picture: it is opened anew after a while.
    """
    if isinstance(place, str):
        return ((int(time.monotonic() // DISTANT_SECONDS), 0),)
    places = [place, *(place / name for name in CHANGING)]
    facts = [path.stat() for path in places if path.exists()]
    return tuple((fact.st_mtime_ns, fact.st_size) for fact in facts)


def page(corpus: Corpus, name: str, wanted: Wanted, statistics: dict[str, Any]) -> dict[str, Any]:
    """Documents, or captioned images, with their pictures' addresses in place.

    A document that cannot be read stands there with its ``problem``.
    """
    rows: Any = corpus.documents
    if wanted.view == "pairs":
        rows = corpus.pairs(wanted.split, wanted.source)
    places = range(wanted.offset, min(wanted.offset + wanted.limit, len(rows)))
    items = [_item(name, rows, place) for place in places]
    if wanted.tokens:
        _measure(items)
    return {
        "items": items,
        "total": len(rows),
        "offset": wanted.offset,
        "splits": sorted(statistics.get("splits", {})),
        "sources": sorted(statistics.get("sources", {})),
    }


def picture(corpus: Corpus, image: str) -> tuple[bytes, str]:
    """The file's bytes and what they are. Raises: Problem 404; 422 for what no browser may be given."""
    try:
        data = corpus.image_bytes(image)
    except UserError as error:
        raise Problem(404, "unknown_image", str(error)) from error
    for start, media_type in SIGNATURES:
        if data.startswith(start):
            return data, media_type
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return data, "image/webp"
    raise Problem(422, "image_unreadable", f"{image}: not a PNG, JPEG, GIF or WebP file")


def image_url(name: str, image: str) -> str:
    return f"/v1/datasets/{quote(name, safe='')}/images/{quote(image)}"


def _item(name: str, rows: Any, place: int) -> dict[str, Any]:
    try:
        row = rows[place]
    except UserError as error:
        return {"id": rows.place_of(place), "segments": [], "problem": str(error)}
    return _document(name, place, row) if isinstance(row, dict) else _pair(name, place, row)


def _document(name: str, place: int, document: dict[str, Any]) -> dict[str, Any]:
    """A sequence as it stands; otherwise each picture before the sentence that it was matched to."""
    segments: list[dict[str, Any]] = []
    if "segments" in document:
        for segment in document["segments"]:
            segments.append(_text(segment["text"]) if "text" in segment else _image(name, segment["image"]))
    else:
        texts, images = document["text_list"], document["image_info"]
        for number, text in enumerate(texts):
            segments += [_match(name, image) for image in images if image["matched_text_index"] == number]
            segments.append(_text(text))
        segments += [_match(name, image) for image in images if not 0 <= image["matched_text_index"] < len(texts)]
    return {"id": str(document.get("id") or document.get("url") or place), "segments": segments}


def _pair(name: str, place: int, pair: Pair) -> dict[str, Any]:
    texts: Iterable[dict[str, Any]] = map(_text, pair.captions)
    facts = {"labels": pair.labels, "split": pair.split, "source": pair.source}
    return {"id": str(pair.extra.get("id") or place), "segments": [_image(name, pair.image), *texts], **facts}


def _text(text: str) -> dict[str, Any]:
    return {"text": text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"}


def _image(name: str, image: str) -> dict[str, Any]:
    return {"image": image, "image_url": image_url(name, image)}


def _match(name: str, image: dict[str, Any]) -> dict[str, Any]:
    return {**_image(name, image["image_name"]), "similarity": image["matched_sim"]}


def _measure(items: Iterable[dict[str, Any]]) -> None:
    """Give each segment the number of tokens that it takes in a row."""
    tokenizer = _tokenizer()
    for item in items:
        for segment in item["segments"]:
            segment["tokens"] = len(tokenizer.encode(segment["text"])) if "text" in segment else IMAGE_TOKENS


@cache
def _tokenizer() -> Tokenizer:
    from lcl_core.data.tokenizer import clip_tokenizer

    return clip_tokenizer()
