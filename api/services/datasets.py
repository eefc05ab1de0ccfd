"""Datasets: cache of open corpora, pages of documents, images, and statistics."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from api.core.errors import Problem
from lcl_core.common.errors import UserError
from lcl_core.common.paths import Root

if TYPE_CHECKING:
    from lcl_core.data.corpus.base import Corpus
    from lcl_core.data.records import CaptionPair
    from lcl_core.data.shards.sharded_corpus import ShardedCorpus
    from lcl_core.data.tokenizer import Tokenizer


MAX_SAMPLED_IMAGES = 200
MAX_LISTED = 20


def compute_statistics(corpus: Corpus) -> dict[str, Any]:
    """Read every line and try some pictures; the corpus's figures. Of shards, the index alone is read.

    Raises:
        UserError: with file and line of the first malformed line.
    """
    from lcl_core.data.shards.sharded_corpus import ShardedCorpus

    if isinstance(corpus, ShardedCorpus):
        return _shard_statistics(corpus)
    names, sentences, documents = Counter[str](), 0, 0
    for documents, document in enumerate(corpus.documents, start=1):
        try:
            texts, images = _count_segments(document)
        except UserError as error:
            error.file = corpus.documents.location(documents - 1)
            raise
        sentences += texts
        names.update(images)
    pairs = corpus.pairs()
    labels: dict[str, Counter[str]] = {}
    sources = Counter[str]()
    captions = 0
    for pair in pairs:
        names[pair.image] += 1
        captions += len(pair.captions)
        sources[pair.source] += 1
        for label, value in pair.labels.items():
            labels.setdefault(label, Counter())[value] += 1
    return {
        "documents": documents,
        "sentences": sentences,
        "pairs": len(pairs),
        "captions": captions,
        "images": len(names),
        "splits": corpus.splits(),
        "sources": dict(sources),
        "labels": {
            label: {"values": len(found), "most_common": dict(found.most_common(MAX_LISTED))}
            for label, found in labels.items()
        },
        "image_check": _sample_images(corpus, sorted(names)),
    }


def _count_segments(document: dict[str, Any]) -> tuple[int, list[str]]:
    """How many texts, and the names of the images. Raises: UserError for malformed segments."""
    if "segments" not in document:
        return len(document["text_list"]), [image["image_name"] for image in document["image_info"]]
    from lcl_core.data.records import ImageSegment, parse_segments

    segments = parse_segments(document)
    images = [segment.name for segment in segments if isinstance(segment, ImageSegment)]
    return len(segments) - len(images), images


def _shard_statistics(corpus: ShardedCorpus) -> dict[str, Any]:
    header = corpus.index.header
    pairs = [(group, records) for group, records in header.groups if group.kind == "pair"]
    sources = Counter[str]()
    for group, records in pairs:
        sources[group.source] += records
    return {
        "documents": header.records - sum(records for _, records in pairs),
        "pairs": sum(records for _, records in pairs),
        "images": header.images,
        "splits": corpus.splits(),
        "sources": dict(sources),
        "left_out": header.quarantined,
    }


def _sample_images(corpus: Corpus, names: Sequence[str]) -> dict[str, Any]:
    """Decode some pictures, spread over all."""
    stride = max(1, len(names) // MAX_SAMPLED_IMAGES)
    tried = names[::stride][:MAX_SAMPLED_IMAGES]
    bad = []
    for name in tried:
        try:
            corpus.read_image(name)
        except UserError as error:
            bad.append(str(error))
    return {"tried": len(tried), "unreadable": len(bad), "first": bad[:MAX_LISTED]}


MAX_OPEN_CORPORA = 8
REMOTE_CACHE_SECONDS = 60  # a corpus behind a URL that changed is seen after at most this
TOKENS_PER_IMAGE = 49 + 2  # what a picture takes in a row: its tokens and the marks around them
MAX_SEGMENT_CHARACTERS = 20_000  # characters of one segment
WATCHED_FILES = ("interleaved.jsonl", "interleaved", "pairs.jsonl", "pairs", "index.json")
CorpusView = Literal["interleaved", "pairs"]
ChangeStamp = tuple[tuple[int, int], ...]
IMAGE_SIGNATURES = ((b"\x89PNG", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"))


@dataclass(frozen=True)
class DocumentQuery:
    """Which documents of a corpus, and what of them."""

    view: CorpusView = "interleaved"
    offset: int = 0
    limit: int = 20
    split: str | None = None
    source: str | None = None
    tokens: bool = False


class CorpusCache:
    """The corpora that somebody looked at lately. Thread-safe."""

    def __init__(self) -> None:
        self._open: OrderedDict[Root, tuple[ChangeStamp, Corpus]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, place: Root) -> Corpus:
        """Open, or opened before and unchanged since. Raises: UserError naming the file."""
        from lcl_core.data.corpus.open import open_corpus

        stamp = _change_stamp(place)
        with self._lock:
            known = self._open.get(place)
        if known is None or known[0] != stamp:
            known = stamp, open_corpus(place)  # without the lock: a distant one may take its time
        with self._lock:
            self._open[place] = known
            self._open.move_to_end(place)
            while len(self._open) > MAX_OPEN_CORPORA:
                self._open.popitem(last=False)
        return known[1]


def _change_stamp(place: Root) -> ChangeStamp:
    """Times and sizes of what changes when a corpus does. A folder's own time does not when a line is appended.

    Behind a URL nobody is asked for every picture: it is opened anew after a while.
    """
    if isinstance(place, str):
        return ((int(time.monotonic() // REMOTE_CACHE_SECONDS), 0),)
    places = [place, *(place / name for name in WATCHED_FILES)]
    facts = [path.stat() for path in places if path.exists()]
    return tuple((fact.st_mtime_ns, fact.st_size) for fact in facts)


def document_page(corpus: Corpus, name: str, wanted: DocumentQuery, statistics: dict[str, Any]) -> dict[str, Any]:
    """Documents, or captioned images, with their pictures' addresses in place.

    A document that cannot be read stands there with its ``problem``.
    """
    rows: Any = corpus.documents
    if wanted.view == "pairs":
        rows = corpus.pairs(wanted.split, wanted.source)
    places = range(wanted.offset, min(wanted.offset + wanted.limit, len(rows)))
    items = [_item_view(name, rows, place) for place in places]
    if wanted.tokens:
        _add_token_counts(items)
    return {
        "items": items,
        "total": len(rows),
        "offset": wanted.offset,
        "splits": sorted(statistics.get("splits", {})),
        "sources": sorted(statistics.get("sources", {})),
    }


def get_image(corpus: Corpus, image: str) -> tuple[bytes, str]:
    """The file's bytes and what they are. Raises: Problem 404; 422 for what no browser may be given."""
    try:
        data = corpus.image_bytes(image)
    except UserError as error:
        raise Problem(404, "unknown_image", str(error)) from error
    for start, media_type in IMAGE_SIGNATURES:
        if data.startswith(start):
            return data, media_type
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return data, "image/webp"
    raise Problem(422, "image_unreadable", f"{image}: not a PNG, JPEG, GIF or WebP file")


def image_url(name: str, image: str) -> str:
    return f"/v1/datasets/{quote(name, safe='')}/images/{quote(image)}"


def _item_view(name: str, rows: Any, place: int) -> dict[str, Any]:
    try:
        row = rows[place]
    except UserError as error:
        return {"id": rows.location(place), "segments": [], "problem": str(error)}
    return _document_view(name, place, row) if isinstance(row, dict) else _pair_view(name, place, row)


def _document_view(name: str, place: int, document: dict[str, Any]) -> dict[str, Any]:
    """A sequence as it stands; otherwise each picture before the sentence that it was matched to."""
    segments: list[dict[str, Any]] = []
    if "segments" in document:
        for segment in document["segments"]:
            segments.append(
                _text_segment(segment["text"]) if "text" in segment else _image_segment(name, segment["image"])
            )
    else:
        texts, images = document["text_list"], document["image_info"]
        for number, text in enumerate(texts):
            segments += [
                _matched_image_segment(name, image) for image in images if image["matched_text_index"] == number
            ]
            segments.append(_text_segment(text))
        segments += [
            _matched_image_segment(name, image) for image in images if not 0 <= image["matched_text_index"] < len(texts)
        ]
    return {"id": str(document.get("id") or document.get("url") or place), "segments": segments}


def _pair_view(name: str, place: int, pair: CaptionPair) -> dict[str, Any]:
    texts: Iterable[dict[str, Any]] = map(_text_segment, pair.captions)
    facts = {"labels": pair.labels, "split": pair.split, "source": pair.source}
    return {"id": str(pair.extra.get("id") or place), "segments": [_image_segment(name, pair.image), *texts], **facts}


def _text_segment(text: str) -> dict[str, Any]:
    return {"text": text if len(text) <= MAX_SEGMENT_CHARACTERS else f"{text[:MAX_SEGMENT_CHARACTERS]}…"}


def _image_segment(name: str, image: str) -> dict[str, Any]:
    return {"image": image, "image_url": image_url(name, image)}


def _matched_image_segment(name: str, image: dict[str, Any]) -> dict[str, Any]:
    return {**_image_segment(name, image["image_name"]), "similarity": image["matched_sim"]}


def _add_token_counts(items: Iterable[dict[str, Any]]) -> None:
    """Give each segment the number of tokens that it takes in a row."""
    tokenizer = _tokenizer()
    for item in items:
        for segment in item["segments"]:
            segment["tokens"] = len(tokenizer.encode(segment["text"])) if "text" in segment else TOKENS_PER_IMAGE


@cache
def _tokenizer() -> Tokenizer:
    from lcl_core.data.tokenizer import clip_tokenizer

    return clip_tokenizer()
