"""Open corpora, pages of documents, images, and statistics. Imports numpy, Pillow and tokenizers."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import quote

from api.core.errors import Problem
from lcl_core.common.errors import UserError
from lcl_core.common.paths import Root
from lcl_core.data.corpus import open as opening
from lcl_core.data.corpus.base import Corpus
from lcl_core.data.records import CaptionPair, ImageSegment, parse_segments
from lcl_core.data.shards.sharded_corpus import ShardedCorpus
from lcl_core.data.shards.statistics import count_label, count_value, largest_groups

MAX_OPEN_CORPORA = 8
REMOTE_CACHE_SECONDS = 60  # after which a corpus behind a URL is opened again
MAX_SEGMENT_CHARACTERS = 20_000
SEARCH_SECONDS = 2.0  # after which a search for words says where to go on
WATCHED_FILES = ("interleaved.jsonl", "interleaved", "pairs.jsonl", "pairs", "index.json")
IMAGE_SIGNATURES = ((b"\x89PNG", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"))
ChangeStamp = tuple[tuple[int, int], ...]


def open_corpus(root: Root) -> Corpus:
    """The corpus, opened again if its files changed. Raises: UserError naming the file."""
    return _open_version(root, _change_stamp(root))


@lru_cache(MAX_OPEN_CORPORA)
def _open_version(root: Root, _stamp: ChangeStamp) -> Corpus:
    return opening.open_corpus(root)


def document_page(
    corpus: Corpus,
    name: str,
    *,
    view: Literal["interleaved", "pairs"],
    offset: int,
    limit: int,
    split: str | None,
    source: str | None,
    words: str,
    among: Sequence[str] | None,
) -> dict[str, Any]:
    """Documents, or captioned images (of a split and a source), with the URLs of their images.

    With words, the next ones from the offset on that have all of them; ``among``: locations of the items to choose
    from. An unreadable document has no segments and a ``problem``.
    """
    rows: Any = corpus.documents if view == "interleaved" else corpus.pairs(split, source)
    chosen = None
    if among is not None:
        chosen = sorted(row for item in among if (row := rows.find(item)) is not None)
    found, following = find_rows(rows, words, offset, limit, chosen)
    items = [_item_view(name, rows, index) | {"item": rows.location(index)} for index in found]
    return {"items": items, "rows": found, "next": following, "total": len(rows), "offset": offset}


def item_locations(corpus: Corpus, items: Sequence[str]) -> list[str]:
    """Locations of items as the corpus writes them: a record's number may be given without its zeros.

    Raises: Problem 422 for a location at which there is nothing.
    """
    found = []
    for number, item in enumerate(items):
        places = ((rows, rows.find(item)) for rows in (corpus.documents, corpus.all_pairs))
        location = next((rows.location(row) for rows, row in places if row is not None), None)
        if location is None:
            message = f"the dataset has no item {item!r}; lists of its documents have the items"
            raise Problem(422, "invalid_value", message, field=f"items.{number}")
        found.append(location)
    return found


def image_file(corpus: Corpus, image: str) -> tuple[bytes, str]:
    """Bytes and media type. Raises: Problem 404; 422 for a format that browsers must not receive."""
    try:
        data = corpus.image_bytes(image)
    except UserError as error:
        raise Problem(404, "not_found", str(error)) from error
    for start, media_type in IMAGE_SIGNATURES:
        if data.startswith(start):
            return data, media_type
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return data, "image/webp"
    raise Problem(422, "image_unreadable", f"{image}: not a PNG, JPEG, GIF or WebP file")


def find_rows(
    rows: Any, words: str, offset: int, limit: int, among: Sequence[int] | None = None
) -> tuple[list[int], int | None]:
    """Numbers of the first rows from ``offset`` on that have all words, and of the row to go on with; None: the end.

    Letters of both cases are equal. A row that cannot be read has no words. A search ends after ``SEARCH_SECONDS``.

    Args:
        among: numbers of the rows to choose from, ascending; None: all.
    """
    wanted, found, deadline = words.casefold().split(), list[int](), time.monotonic() + SEARCH_SECONDS
    candidates = range(offset, len(rows)) if among is None else among[bisect_left(among, offset) :]
    for index in candidates:
        if len(found) == limit or (wanted and time.monotonic() > deadline):
            return found, index
        if not wanted or _has_words(rows, index, wanted):
            found.append(index)
    return found, None


def _has_words(rows: Any, index: int, words: Sequence[str]) -> bool:
    try:
        row = rows[index]
    except UserError:
        return False
    view = _document_view("", index, row) if isinstance(row, dict) else _pair_view("", index, row)
    texts = [segment["text"] for segment in view["segments"] if "text" in segment]
    text = " ".join([view["id"], *texts, *view.get("labels", {}).values()]).casefold()
    return all(word in text for word in words)


def _change_stamp(root: Root) -> ChangeStamp:
    """Times and sizes of the files that change with a corpus; a folder's own time does not when a line is appended."""
    if isinstance(root, str):
        return ((int(time.monotonic() // REMOTE_CACHE_SECONDS), 0),)
    paths = [root, *(root / name for name in WATCHED_FILES)]
    infos = [path.stat() for path in paths if path.exists()]
    return tuple((info.st_mtime_ns, info.st_size) for info in infos)


def _item_view(name: str, rows: Any, index: int) -> dict[str, Any]:
    try:
        row = rows[index]
    except UserError as error:
        return {"id": rows.location(index), "segments": [], "problem": str(error)}
    return _document_view(name, index, row) if isinstance(row, dict) else _pair_view(name, index, row)


def _document_view(name: str, index: int, document: dict[str, Any]) -> dict[str, Any]:
    """Segments in order; of an mmc4 document each image before the sentence that it was matched to."""
    if "segments" in document:
        segments = [
            _text_segment(segment["text"]) if "text" in segment else _image_segment(name, segment["image"])
            for segment in document["segments"]
        ]
    else:
        texts = document["text_list"]
        matched: dict[int, list[dict[str, Any]]] = defaultdict(list)  # images by sentence; others are at the end
        for image in document["image_info"]:
            number = image["matched_text_index"]
            matched[number if 0 <= number < len(texts) else len(texts)].append(
                _image_segment(name, image["image_name"]) | {"similarity": image["matched_sim"]}
            )
        segments = []
        for number, text in enumerate(texts):
            segments += [*matched[number], _text_segment(text)]
        segments += matched[len(texts)]
    return {"id": str(document.get("id") or document.get("url") or index), "segments": segments}


def _pair_view(name: str, index: int, pair: CaptionPair) -> dict[str, Any]:
    return {
        "id": str(pair.extra.get("id") or index),
        "segments": [_image_segment(name, pair.image), *map(_text_segment, pair.captions)],
        "labels": pair.labels,
        "split": pair.split,
        "source": pair.source,
    }


def _text_segment(text: str) -> dict[str, Any]:
    return {"text": text if len(text) <= MAX_SEGMENT_CHARACTERS else f"{text[:MAX_SEGMENT_CHARACTERS]}…"}


def _image_segment(name: str, image: str) -> dict[str, Any]:
    return {"image": image, "image_url": f"/v1/datasets/{quote(name, safe='')}/images/{quote(image)}"}


def compute_statistics(corpus: Corpus) -> dict[str, Any]:
    """Counts over all records. Of shards only the index is read.

    Raises: UserError with file and line of the first malformed line.
    """
    sources = Counter[str]()
    if isinstance(corpus, ShardedCorpus):
        header = corpus.index.header
        for group, records in header.groups:
            if group.kind == "pair":
                sources[group.source] += records
        pairs = sources.total()
        counts = {"documents": header.records - pairs, "pairs": pairs, "images": header.images}
        return {**counts, **largest_groups(corpus.splits(), sources), "left_out": header.quarantined}
    totals = Counter(documents=0, sentences=0, pairs=0, captions=0, images=0)
    labels: dict[str, Counter[str]] = {}
    for index, document in enumerate(corpus.documents):
        texts, images = len(document.get("text_list", ())), len(document.get("image_info", ()))
        if "segments" in document:
            try:
                segments = parse_segments(document)
            except UserError as error:
                error.file = corpus.documents.location(index)
                raise
            images = sum(isinstance(segment, ImageSegment) for segment in segments)
            texts = len(segments) - images
        totals.update(documents=1, sentences=texts, images=images)
    for pair in corpus.pairs():
        totals.update(pairs=1, captions=len(pair.captions), images=1)
        count_value(sources, pair.source)
        for label, value in pair.labels.items():
            count_label(labels, label, value)
    return {**totals, **largest_groups(corpus.splits(), sources, labels)}
