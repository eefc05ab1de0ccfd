"""A corpus in the sharded form, with the interface of any corpus, and its records as a reader yields them."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from lcl_core.common.disk_cache import no_progress
from lcl_core.common.errors import StoreError, UserError
from lcl_core.data.corpus.base import Corpus
from lcl_core.data.image_decoding import MAX_IMAGE_BYTES
from lcl_core.data.records import (
    BadItem,
    Body,
    CaptionedImage,
    CaptionPair,
    ImageMatch,
    ImageSegment,
    MatchedDocument,
    Record,
    RecordImage,
    SequenceDocument,
    TextSegment,
    is_held_out,
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
from lcl_core.data.shards.index import IndexRow, RecordSelection, ShardChunkIndex, ShardIndex
from lcl_core.data.shards.storage import ShardStorage, damaged_shard_error, open_shard_storage
from lcl_core.parts import Section
from lcl_core.specs.data import DataSpec

T = TypeVar("T")
_MAX_GAP_BYTES = 1 << 20  # between records of one range: to fetch them takes about as long as another request


class SelectedRecords(Generic[T]):
    """Selected records, read on access in one range read each. Iterating over them reads no images."""

    def __init__(self, corpus: ShardedCorpus, selection: RecordSelection, make: Callable[[Json, int], T]) -> None:
        self._corpus, self.selection, self._make = corpus, selection, make

    def __len__(self) -> int:
        return len(self.selection)

    def __getitem__(self, index: int) -> T:
        record = self.selection[index]
        return self._make(self._corpus.description(record), record)

    def __iter__(self) -> Iterator[T]:
        return (self.describe(index) for index in range(len(self)))

    def describe(self, index: int) -> T:
        """Like indexing, without reading the images."""
        record = self.selection[index]
        return self._make(self._corpus.description(record, with_images=False), record)

    def location(self, index: int) -> str:
        """The record's number."""
        return record_location(self.selection[index])

    def find(self, location: str) -> int | None:
        """Index of the record with that number; None: it is not among these."""
        return self.selection.find(int(location)) if location.isdecimal() else None


def record_location(record: int) -> str:
    """The number of a record, as messages and tags have it."""
    return f"{record:09d}"


class ShardedCorpus(Corpus):
    """Opening reads the header; everything else in memory is mapped, or in proportion to the number of shards."""

    def __init__(self, storage: ShardStorage) -> None:
        self.path = Path(storage.name)
        self._storage = storage
        self.concurrent_reads = storage.concurrent_reads
        self.index = ShardIndex(storage)
        self._last = threading.local()

    @staticmethod
    def open(path: str | Path) -> ShardedCorpus:
        """Raises: UserError ``not_found`` or ``corpus_unreadable``."""
        return ShardedCorpus(open_shard_storage(path))

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return ShardedCorpus.open, (self._storage.name,)

    @cached_property
    def documents(self) -> SelectedRecords[Json]:
        """Matched records and sequences of all splits but the held out. Indexing raises ``corpus_unreadable``."""
        return self._documents(held_out=False)

    @cached_property
    def held_out_documents(self) -> SelectedRecords[Json]:
        """Likewise, of the held-out splits."""
        return self._documents(held_out=True)

    def _documents(self, held_out: bool) -> SelectedRecords[Json]:
        splits = [group.split for group, _ in self.index.header.groups if is_held_out(group.split) == held_out]
        return SelectedRecords(self, self.index.select((MATCHED, SEQUENCE), splits), decode_document)

    def chunks(self, data: DataSpec, piece_images: int) -> ShardChunkIndex:
        """The documents cut into chunks of at most that many images. Reads the index once, and no document."""
        usable = partial(self.index.usable, threshold=data.similarity_threshold)
        return ShardChunkIndex(self.documents.selection, usable, data.max_images, piece_images)

    def pairs(
        self, split: str | Sequence[str] | None = None, source: str | None = None
    ) -> SelectedRecords[CaptionPair]:
        splits = (split,) if isinstance(split, str) else split
        return SelectedRecords(self, self.index.select((PAIR,), splits, source), decode_pair)

    def splits(self) -> dict[str, int]:
        counts: Counter[str] = Counter()
        for group, records in self.index.header.groups:
            if group.kind == PAIR:
                counts[group.split] += records
        return dict(counts)

    def description(self, record: int, with_images: bool = True) -> Json:
        """The record's JSON member; its images are read along, since they are mostly accessed next.

        Raises: IndexError; UserError.
        """
        members = self._members(record, whole=with_images)
        try:
            value = json.loads(bytes(members["json"]))
            if not isinstance(value, dict):
                raise ValueError("no object")
        except (KeyError, ValueError) as error:
            name = self.index.header.shards[self.index.row(record).shard].name
            raise damaged_shard_error(name, f"record {record} has no readable description") from error
        return value

    def image_bytes(self, name: str) -> bytes:
        record, part = parse_image_name(name)
        if part.endswith(f".{LEFT_OUT}"):
            message = "the image was not available when the corpus was converted; see quarantine.jsonl"
            raise UserError(message, code="file_missing", file=name)
        if record >= len(self.index):
            raise UserError("the corpus has no such record", code="file_missing", file=name)
        data = self._members(record, whole=True).get(part)
        if data is None:
            raise UserError("the record has no such image", code="file_missing", file=name)
        if len(data) > MAX_IMAGE_BYTES:
            raise UserError(f"the file is larger than {MAX_IMAGE_BYTES:,} bytes", code="too_large", file=name)
        return bytes(data)

    def content_hash(self, progress: Callable[[], None] = no_progress) -> str:
        """sha256 (hex) over the shards' hashes in the header; nothing is read again."""
        return self.index.header.content_hash()

    def read_records(self, numbers: Iterable[int]) -> dict[int, bytes]:
        """Whole records by number, those that lie near one another in one read. Raises: UserError."""
        runs: list[list[tuple[int, IndexRow]]] = []
        end = (-1, 0)  # shard and offset after the last record
        for number in sorted(numbers):
            row = self.index.row(number)
            if row.shard != end[0] or not 0 <= row.offset - end[1] <= _MAX_GAP_BYTES:
                runs.append([])
            runs[-1].append((number, row))
            end = (row.shard, row.offset + row.length)
        found = {}
        for run in runs:
            first, last = run[0][1], run[-1][1]
            shard = self.index.header.shards[first.shard]
            length = last.offset + last.length - first.offset
            data = self._storage.read_range(shard.name, first.offset, length, shard.sha256)
            for number, row in run:
                start = row.offset - first.offset
                found[number] = data[start : start + row.length]
        return found

    def keep_record(self, record: int, data: bytes) -> None:
        """Let this thread's next reads of a record take it from ``data``. Raises: UserError ``corpus_unreadable``."""
        self._last.record = (record, self._split(record, data))

    def _members(self, record: int, whole: bool) -> dict[str, memoryview]:
        """Members of a record by the part of their name after its number; the last record's are cached."""
        last: tuple[int, dict[str, memoryview]] | None = getattr(self._last, "record", None)
        if last is not None and last[0] == record:
            return last[1]
        row = self.index.row(record)
        shard = self.index.header.shards[row.shard]
        length = row.length if whole else row.json
        members = self._split(record, self._storage.read_range(shard.name, row.offset, length, shard.sha256))
        if whole:
            self._last.record = (record, members)
        return members

    def _split(self, record: int, data: bytes) -> dict[str, memoryview]:
        try:
            return split_members(data)
        except ValueError as error:
            name = self.index.header.shards[self.index.row(record).shard].name
            raise damaged_shard_error(name, f"record {record} is not where the index says ({error})") from error


def decode_body(value: Json, number: int) -> Body:
    """The body of record ``number`` from its description; images have the names of the corpus."""
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


def read_shard_records(corpus: ShardedCorpus, start: int = 0) -> Iterator[Record | BadItem]:
    """Every record in order from number ``start`` on; one range read each, when its first image is loaded."""
    for number in range(start, len(corpus.index)):
        try:
            value = corpus.description(number)
        except StoreError:
            raise
        except UserError as error:
            yield BadItem(error.file or "", 0, "damaged record", error.message)
            continue
        names = record_image_names(value, number)
        images = tuple(RecordImage(name, partial(corpus.image_bytes, name)) for name in names)
        body, extra = decode_body(value, number), value.get("extra", {})
        yield Record(value["id"], body, images, value["split"], value["source"], extra)


class ShardedRecords:
    """The records of a corpus, to be read in parts; see :class:`lcl_core.parts.PartSource`."""

    def __init__(self, corpus: ShardedCorpus) -> None:
        self._corpus = corpus

    def sections(self) -> list[Section]:
        """One: any record can be read by its number."""
        return [Section("", self._corpus.content_hash())]

    def read_section(self, key: str, start: int = 0) -> Iterator[Record | BadItem]:
        return read_shard_records(self._corpus, start)

    def count_section(self, key: str) -> int:
        return len(self._corpus.index)
