"""A corpus in the sharded form, with the interface of any corpus."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

from lcl_core.data.corpus import Corpus, open_corpus
from lcl_core.data.images import MAX_IMAGE_BYTES
from lcl_core.data.pairs import Pair
from lcl_core.data.shards.body import Json, to_document, to_pair
from lcl_core.data.shards.groups import Selection
from lcl_core.data.shards.index import ShardIndex
from lcl_core.data.shards.layout import LEFT_OUT, MATCHED, PAIR, SEQUENCE, parse_image_name
from lcl_core.data.shards.pieces import ShardPieces
from lcl_core.data.shards.places import Place, damaged
from lcl_core.data.shards.tar import split_members
from lcl_core.errors import UserError
from lcl_core.specs import DataSpec

T = TypeVar("T")
_HELD_OUT = ("val", "test")


class Chosen(Sequence[T], Generic[T]):
    """Selected records, read as they are asked for: one range read each. Walking through them reads no pictures."""

    def __init__(self, corpus: ShardedCorpus, selection: Selection, make: Callable[[Json, int], T]) -> None:
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

    def place_of(self, index: int) -> str:
        """The record's number, for messages and ids."""
        return f"{self.selection[index]:09d}"


class ShardedCorpus(Corpus):
    """Read through :func:`lcl_core.data.open_corpus`. Safe from several threads and after a fork.

    Opening costs the header; what else is in memory is mapped, or in proportion to the number of shards.
    """

    def __init__(self, place: Place) -> None:
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
    def documents(self) -> Chosen[Json]:
        """Matched records and sequences of all splits but the held out, in MMC4's layout; a sequence has ``segments``.

        Indexing raises UserError ``shard_damaged``.
        """
        splits = [group.split for group, _ in self._index.header.groups if not group.split.startswith(_HELD_OUT)]
        return Chosen(self, self._index.select((MATCHED, SEQUENCE), splits), to_document)

    def pieces(self, data: DataSpec, piece_images: int) -> ShardPieces:
        """The documents cut into pieces of at most that many images. Reads the index once, and no document."""
        usable = partial(self._index.usable, threshold=data.similarity_threshold)
        return ShardPieces(self.documents.selection, usable, data.max_images, piece_images)

    def pairs(self, split: str | Sequence[str] | None = None, source: str | None = None) -> Chosen[Pair]:
        """Captioned images of a split (or any of several) and a source; None: all."""
        splits = (split,) if isinstance(split, str) else split
        return Chosen(self, self._index.select((PAIR,), splits, source), to_pair)

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
            raise damaged(self._shard_of(record), f"record {record} has no readable description") from error
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
            raise damaged(name, f"record {record} is not where the index says ({error})") from error
        if whole:
            self._last.record = (record, members)
        return members

    def _shard_of(self, record: int) -> str:
        return self._index.header.shards[self._index.row(record).shard].name
