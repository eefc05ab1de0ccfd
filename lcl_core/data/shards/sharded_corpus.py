"""A corpus in the sharded form, with the interface of any corpus, and its records as a reader yields them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

from lcl_core.common.errors import UserError
from lcl_core.data.corpus.base import CaptionPair, Corpus, open_corpus
from lcl_core.data.image_decoding import MAX_IMAGE_BYTES
from lcl_core.data.records import (
    BadItem,
    CaptionedImage,
    ImageMatch,
    ImageSegment,
    MatchedDocument,
    Record,
    RecordImage,
    SequenceDocument,
    TextSegment,
)
from lcl_core.data.shards.format import (
    LEFT_OUT,
    MATCHED,
    PAIR,
    SEQUENCE,
    Json,
    decode_document,
    decode_pair,
    parse_image_name,
    record_image_names,
    split_members,
)
from lcl_core.data.shards.index import RecordSelection, ShardChunkIndex, ShardIndex
from lcl_core.data.shards.storage import ShardStorage, damaged_shard_error
from lcl_core.specs.pretrain import DataSpec

T = TypeVar("T")
_HELD_OUT = ("val", "test")


class SelectedRecords(Sequence[T], Generic[T]):
    """Selected records, read as they are asked for: one range read each. Walking through them reads no pictures."""

    def __init__(self, corpus: ShardedCorpus, selection: RecordSelection, make: Callable[[Json, int], T]) -> None:
        self._corpus, self.selection, self._make = corpus, selection, make

    def __len__(self) -> int:
        return len(self.selection)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...

    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        record = self.selection[index]
        return self._make(self._corpus.description(record), record)

    def __iter__(self) -> Iterator[T]:
        return (self.describe(place) for place in range(len(self)))

    def describe(self, index: int) -> T:
        """Like indexing, but only what is no picture is read."""
        record = self.selection[index]
        return self._make(self._corpus.description(record, with_pictures=False), record)

    def location(self, index: int) -> str:
        """The record's number, for messages and ids."""
        return f"{self.selection[index]:09d}"


class ShardedCorpus(Corpus):
    """Read through :func:`lcl_core.data.open_corpus`. Safe from several threads and after a fork.

    Opening costs the header; what else is in memory is mapped, or in proportion to the number of shards.
    """

    def __init__(self, place: ShardStorage) -> None:
        self.path = Path(place.name)
        self._place = place
        self._index = ShardIndex(place)
        self._last = threading.local()

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return open_corpus, (self._place.name,)

    @property
    def index(self) -> ShardIndex:
        return self._index

    @cached_property
    def documents(self) -> SelectedRecords[Json]:
        """Matched records and sequences of all splits but the held out, in MMC4's layout; a sequence has ``segments``.

        Indexing raises UserError ``shard_damaged``.
        """
        splits = [group.split for group, _ in self._index.header.groups if not group.split.startswith(_HELD_OUT)]
        return SelectedRecords(self, self._index.select((MATCHED, SEQUENCE), splits), decode_document)

    def chunks(self, data: DataSpec, piece_images: int) -> ShardChunkIndex:
        """The documents cut into pieces of at most that many images. Reads the index once, and no document."""
        usable = partial(self._index.usable, threshold=data.similarity_threshold)
        return ShardChunkIndex(self.documents.selection, usable, data.max_images, piece_images)

    def pairs(
        self, split: str | Sequence[str] | None = None, source: str | None = None
    ) -> SelectedRecords[CaptionPair]:
        """Captioned images of a split (or any of several) and a source; None: all."""
        splits = (split,) if isinstance(split, str) else split
        return SelectedRecords(self, self._index.select((PAIR,), splits, source), decode_pair)

    def splits(self) -> dict[str, int]:
        """How many captioned images each split has."""
        counts: dict[str, int] = {}
        for group, records in self._index.header.groups:
            if group.kind == PAIR:
                counts[group.split] = counts.get(group.split, 0) + records
        return counts

    def description(self, record: int, with_pictures: bool = True) -> Json:
        """The record's JSON member; its pictures are read along, since they are mostly wanted next.

        Raises: IndexError; UserError.
        """
        members = self._members(record, whole=with_pictures)
        try:
            value = json.loads(bytes(members["json"]))
            if not isinstance(value, dict):
                raise ValueError("no object")
        except (KeyError, ValueError) as error:
            raise damaged_shard_error(self._shard_of(record), f"record {record} has no readable description") from error
        return value

    def image_bytes(self, name: str) -> bytes:
        """The file as it was converted. Raises: UserError naming the file."""
        record, part = parse_image_name(name)
        if part.endswith(f".{LEFT_OUT}"):
            message = "the picture could not be had when the corpus was converted; see quarantine.jsonl"
            raise UserError(message, code="image_left_out", file=name)
        if record >= len(self._index):
            raise UserError("the corpus has no such record", code="file_missing", file=name)
        found = self._members(record, whole=True).get(part)
        if found is None:
            raise UserError("the record has no such picture", code="file_missing", file=name)
        if len(found) > MAX_IMAGE_BYTES:
            raise UserError(f"the file is larger than {MAX_IMAGE_BYTES:,} bytes", code="file_too_large", file=name)
        return bytes(found)

    def content_hash(self) -> str:
        """sha256 (hex) over the shards' hashes in the header; nothing is read again."""
        return self._index.header.content_hash()

    def _members(self, record: int, whole: bool) -> dict[str, memoryview]:
        """Members of a record by the part of their name that is not its number; the last one's are kept at hand."""
        last: tuple[int, dict[str, memoryview]] | None = getattr(self._last, "record", None)
        if last is not None and last[0] == record:
            return last[1]
        row = self._index.row(record)
        shard = self._index.header.shards[row.shard]
        name = shard.name
        data = self._place.read_range(name, row.offset, row.length if whole else row.json, shard.sha256)
        try:
            members = split_members(data)
        except ValueError as error:
            raise damaged_shard_error(name, f"record {record} is not where the index says ({error})") from error
        if whole:
            self._last.record = (record, members)
        return members

    def _shard_of(self, record: int) -> str:
        return self._index.header.shards[self._index.row(record).shard].name


def decode_body(value: dict[str, Any], number: int) -> MatchedDocument | SequenceDocument | CaptionedImage:
    """``value``: the description of record ``number``."""
    names = record_image_names(value, number)
    if value["kind"] == MATCHED:
        matches = (
            ImageMatch(names[match["picture"]], match["sentence"], match["similarity"]) for match in value["matches"]
        )
        return MatchedDocument(tuple(value["sentences"]), tuple(matches))
    if value["kind"] == SEQUENCE:
        segments = (
            TextSegment(segment["text"]) if "text" in segment else ImageSegment(names[segment["picture"]])
            for segment in value["segments"]
        )
        return SequenceDocument(tuple(segments))
    return CaptionedImage(names[0], tuple(value["captions"]), value["labels"])


def read_shard_records(corpus: ShardedCorpus) -> Iterator[Record | BadItem]:
    """Every record in its order; one range read each, when the first of its pictures is loaded."""
    for number in range(len(corpus.index)):
        try:
            value = corpus.description(number)
        except UserError as error:
            yield BadItem(error.file or "", 0, "damaged record", error.message)
            continue
        pictures = (RecordImage(name, partial(corpus.image_bytes, name)) for name in record_image_names(value, number))
        yield Record(
            value["id"],
            decode_body(value, number),
            tuple(pictures),
            value["split"],
            value["source"],
            value.get("extra", {}),
        )
