"""From a corpus or a reader to items that can be sent to another process, in bounded chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lcl_core.data.drafts import segments_of
from lcl_core.data.record import BadItem, Match, Matched, Pair, Record, Sequence
from lcl_core.data.shards import ShardedCorpus
from lcl_core.data.validation.bodies import body_of
from lcl_core.errors import UserError

CHUNK_RECORDS = 64
CHUNK_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Refused:
    """A picture that could not be loaded, and why."""

    code: str
    message: str

    @classmethod
    def of(cls, error: UserError) -> Refused:
        return cls(error.code, str(error))

    def error(self) -> UserError:
        return UserError(self.message, code=self.code)


@dataclass(frozen=True, slots=True)
class Item:
    """A record without its loaders.

    Attributes:
        pictures: the files by name; None: whoever examines the item reads them from the corpus.
    """

    id: str
    split: str
    source: str
    body: Matched | Sequence | Pair
    pictures: dict[str, bytes | Refused] | None = None


Chunk = list[Item | BadItem]


@runtime_checkable
class Readable(Protocol):
    """An open corpus, in a folder, a zip or shards. It can be sent to another process."""

    path: Path
    documents: Any

    @property
    def all_pairs(self) -> Any: ...

    def image_bytes(self, name: str) -> bytes: ...


Source = Readable | Iterable[Record | BadItem]


def items_of(source: Source) -> Iterator[Item | BadItem]:
    """Every record of the source, in its order."""
    if isinstance(source, ShardedCorpus):
        return _of_shards(source)
    if isinstance(source, Readable):
        return _of_corpus(source)
    return _of_records(getattr(source, "records", lambda: source)())


def length_of(source: Source) -> int | None:
    """How many records there are to come, if that can be told beforehand."""
    if isinstance(source, ShardedCorpus):
        return len(source.index)
    return len(source.documents) + len(source.all_pairs) if isinstance(source, Readable) else None


def chunks_of(items: Iterable[Item | BadItem]) -> Iterator[Chunk]:
    """Runs of items, bounded in number and, but for one record, in bytes."""
    chunk: Chunk = []
    held = 0
    for item in items:
        chunk.append(item)
        if isinstance(item, Item) and item.pictures:
            held += sum(len(data) for data in item.pictures.values() if isinstance(data, bytes))
        if len(chunk) >= CHUNK_RECORDS or held >= CHUNK_BYTES:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


def place_of(id: str) -> tuple[str, int]:
    """File and line of a record's id, ``FILE:LINE``; other ids are taken for the file."""
    file, colon, line = id.rpartition(":")
    return (file, int(line)) if colon and line.isascii() and line.isdigit() else (id, 0)


def _of_records(records: Iterable[Record | BadItem]) -> Iterator[Item | BadItem]:
    for record in records:
        if isinstance(record, BadItem):
            yield record
            continue
        pictures = {picture.name: _load(picture.load) for picture in record.pictures}
        yield Item(record.id, record.split, record.source, record.body, pictures)


def _load(load: Any) -> bytes | Refused:
    try:
        return load()
    except UserError as error:
        return Refused.of(error)
    except OSError as error:
        return Refused("file_unreadable", f"the file cannot be read: {error.strerror or error}")


def _of_corpus(corpus: Readable) -> Iterator[Item | BadItem]:
    """Documents, then captioned images."""
    documents = corpus.documents
    for place in range(len(documents)):
        try:
            yield _of_document(documents[place], documents.place_of(place))
        except UserError as error:
            yield _bad_line(error, documents.place_of(place))
    yield from _pairs_of(corpus)


def _pairs_of(corpus: Readable) -> Iterator[Item | BadItem]:
    """Line by line: ``corpus.pairs()`` gives nothing at all while one of them is malformed."""
    pairs = corpus.all_pairs
    for place in range(len(pairs)):
        try:
            pair = pairs[place]
        except UserError as error:
            yield _bad_line(error, pairs.place_of(place))
        else:
            body = Pair(pair.image, pair.captions, pair.labels)
            yield Item(pairs.place_of(place), pair.split, pair.source, body)


def _of_shards(corpus: ShardedCorpus) -> Iterator[Item | BadItem]:
    """Descriptions alone: whoever examines an item reads its pictures, all of them in one range."""
    for number in range(len(corpus.index)):
        try:
            value = corpus.description(number, with_pictures=False)
            yield Item(value["id"], value["split"], value["source"], body_of(value, number))
        except UserError as error:
            yield BadItem(error.file or "", 0, "damaged record", error.message)


def _of_document(document: dict[str, Any], id: str) -> Item:
    """Raises: UserError for malformed segments."""
    if "segments" in document:
        return Item(id, "train", "", Sequence(segments_of(document)))
    matches = tuple(
        Match(image["image_name"], image["matched_text_index"], float(image["matched_sim"]))
        for image in document["image_info"]
    )
    return Item(id, "train", "", Matched(tuple(document["text_list"]), matches))


def _bad_line(error: UserError, id: str) -> BadItem:
    """Of a line that is no document or pair."""
    file, line = place_of(id)
    return BadItem(file, line, "bad line", error.message)
