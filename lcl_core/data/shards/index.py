"""The offset index: a header, memory-mapped columns as long as the corpus, and selections over them.

Selections by kind, split and source are rank and select over block counts, and chunks of
documents are counted a block at a time; neither lists records.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lcl_core.common.errors import UserError
from lcl_core.common.files import sha256_file
from lcl_core.data.shards.format import (
    BLOCK,
    BLOCKS,
    CODE,
    FORMAT,
    GROUPS,
    HEADER,
    MAX_RECORD_BYTES,
    ROW,
    ROWS,
    SIMILARITIES,
    SIMILARITY,
    START,
    STARTS,
    VERSION,
    is_shard_name,
)
from lcl_core.data.shards.storage import ShardStorage, damaged_shard_error


@dataclass(frozen=True, slots=True)
class RecordGroup:
    """Records of one kind, split and source."""

    kind: str
    split: str
    source: str


def count_blocks(codes: np.ndarray, groups: int) -> np.ndarray:
    """Codes of all records → uint16 [blocks, groups]."""
    blocks = -(-len(codes) // BLOCK)
    counts = np.empty((blocks, groups), CODE)
    for block in range(blocks):
        counts[block] = np.bincount(codes[block * BLOCK : (block + 1) * BLOCK], minlength=groups)
    return counts


class RecordSelection:
    """The records of some groups, in the order of the corpus.

    Memory: eight bytes for each 4,096 records; an item costs a search in these and a scan of one block.

    Args:
        codes: group of each record, mapped.
        counts: of each group in each block, [blocks, groups], mapped.
        selected: codes of the selected groups.
    """

    def __init__(self, codes: np.ndarray, counts: np.ndarray, selected: Collection[int]) -> None:
        self._codes = codes
        columns = sorted(selected)
        self._wanted = np.zeros(counts.shape[1], bool)
        self._wanted[columns] = True
        self._everything = len(columns) == counts.shape[1]
        self._ends = np.cumsum(counts[:, columns].sum(axis=1, dtype=np.int64))

    @property
    def blocks(self) -> int:
        return len(self._ends)

    def before(self, block: int) -> int:
        """Number of selected records before a block."""
        return int(self._ends[block - 1]) if block else 0

    def mask(self, block: int) -> np.ndarray:
        """Which records of a block are selected."""
        start = block * BLOCK
        return self._wanted[self._codes[start : start + BLOCK]]

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> int:
        """The record at ``index`` (a negative one counts from the end)."""
        size = len(self)
        index = index + size if index < 0 else index
        if not 0 <= index < size:
            raise IndexError(index)
        if self._everything:
            return index
        block = int(np.searchsorted(self._ends, index, side="right"))
        return block * BLOCK + int(np.flatnonzero(self.mask(block))[index - self.before(block)])

    def find(self, record: int) -> int | None:
        """Index of a record; None: it is not selected."""
        if not 0 <= record < len(self._codes):
            return None
        block, position = divmod(record, BLOCK)
        mask = self.mask(block)
        return self.before(block) + int(mask[:position].sum()) if mask[position] else None


class ShardChunkIndex:
    """A :class:`lcl_core.data.sampling.document_plan.DocumentChunks` in eight bytes for each 4,096 records.

    Opening it passes once over the index (about a tenth of a second for a million records); an item costs a scan of one
    block.

    Args:
        selection: the documents.
        usable: block → usable images of each of its records.
        max_images: that a document keeps.
        piece_images: that a chunk may have.
    """

    def __init__(
        self, selection: RecordSelection, usable: Callable[[int], np.ndarray], max_images: int, piece_images: int
    ) -> None:
        self._selection, self._usable = selection, usable
        self._max_images, self._piece_images = max_images, piece_images
        counts = [int(self._chunk_counts(block).sum()) for block in range(selection.blocks)]
        self._ends = np.cumsum(counts, dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, item: int) -> tuple[int, int]:
        block = int(np.searchsorted(self._ends, item, side="right"))
        within = item - (int(self._ends[block - 1]) if block else 0)
        ends = np.cumsum(self._chunk_counts(block))
        document = int(np.searchsorted(ends, within, side="right"))
        return self._selection.before(block) + document, within - (int(ends[document - 1]) if document else 0)

    def _chunk_counts(self, block: int) -> np.ndarray:
        """Chunks of each selected record of a block, as ``chunk_count`` computes them."""
        images = np.minimum(self._usable(block)[self._selection.mask(block)], self._max_images)
        return np.maximum(1, -(-2 * images // (self._piece_images + 1)))


_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ShardFile:
    """A tar file of the corpus."""

    name: str
    bytes: int
    sha256: str
    records: int


class IndexRow(NamedTuple):
    """Where a record lies and what it holds; see ``format.ROW``."""

    offset: int
    length: int
    json: int
    text: int
    shard: int
    images: int
    matches: int
    group: int


@dataclass(frozen=True)
class IndexHeader:
    """Content of ``index.json``.

    Attributes:
        groups: what a group code stands for, with the number of records of each.
        files: sha256 of the index's own files, by name.
        images, text_bytes: of all records together.
        quarantined: what was left out when the corpus was converted, by reason.
    """

    records: int
    shards: tuple[ShardFile, ...]
    groups: tuple[tuple[RecordGroup, int], ...]
    files: dict[str, str]
    images: int = 0
    text_bytes: int = 0
    quarantined: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        groups = [{**asdict(group), "records": count} for group, count in self.groups]
        value = {"format": FORMAT, "version": VERSION, **asdict(self), "groups": groups}
        return json.dumps(value, indent=1, sort_keys=True) + "\n"

    @staticmethod
    def from_json(text: bytes, name: str) -> IndexHeader:
        """Raises: UserError ``corpus_unreadable`` for what is no header, or one of a newer version."""
        try:
            value = json.loads(text)
            if value.pop("format") != FORMAT:
                raise ValueError("it is of another format")
            version = value.pop("version")
            if version != VERSION:
                raise ValueError(f"it has version {version}, this program reads {VERSION}; update the program")
            value["shards"] = tuple(ShardFile(**shard) for shard in value["shards"])
            # names and hashes become parts of paths, so they are ours or none
            if set(value["files"]) != {ROWS, GROUPS, BLOCKS, SIMILARITIES, STARTS}:
                raise ValueError("it names other files than an index has")
            if not all(is_shard_name(shard.name) for shard in value["shards"]):
                raise ValueError("it names other shards than a conversion makes")
            digests = (*value["files"].values(), *(shard.sha256 for shard in value["shards"]))
            if not all(_SHA256.fullmatch(digest) for digest in digests):
                raise ValueError("it holds what is no sha256")
            value["groups"] = tuple(
                (RecordGroup(g["kind"], g["split"], g["source"]), g["records"]) for g in value["groups"]
            )
            return IndexHeader(**value)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            message = f"the index cannot be read ({error})"
            raise UserError(message, code="corpus_unreadable", file=f"{name}/{HEADER}") from error

    def content_hash(self) -> str:
        """sha256 (hex) over the shards' and the index's own hashes."""
        total = hashlib.sha256()
        for digest in [*(shard.sha256 for shard in self.shards), *(self.files[name] for name in sorted(self.files))]:
            total.update(f"{digest}\n".encode())
        return total.hexdigest()


class ShardIndex:
    """A header and mapped files, however many records there are. Safe from threads and forks.

    Attributes:
        rows: of all records.
        similarities: likewise; ``rows`` says how many each record has.
    """

    def __init__(self, storage: ShardStorage) -> None:
        self.header = IndexHeader.from_json(_read_header(storage), storage.name)
        groups, records = len(self.header.groups), self.header.records
        blocks = -(-records // BLOCK)
        self._starts = self._map(storage, STARTS, START, blocks + 1)
        self._codes = self._map(storage, GROUPS, CODE, records)
        self._blocks = self._map(storage, BLOCKS, CODE, blocks * groups).reshape(blocks, groups)
        self.rows = self._map(storage, ROWS, ROW, records)
        self.similarities = self._map(storage, SIMILARITIES, SIMILARITY, int(self._starts[-1]))

    def __len__(self) -> int:
        return self.header.records

    def row(self, record: int) -> IndexRow:
        """Raises: IndexError; UserError ``corpus_unreadable`` for a record longer than any that is written."""
        if not 0 <= record < len(self):
            raise IndexError(record)
        row = IndexRow(*self.rows[record].item())
        if not row.json <= row.length <= MAX_RECORD_BYTES:
            raise damaged_shard_error(ROWS, f"record {record} has {row.json:,} of {row.length:,} bytes without images")
        return row

    def usable(self, block: int, threshold: float) -> np.ndarray:
        """Sentences with a similar enough image, or images of a sequence, of each record of a block."""
        rows = self.rows[block * BLOCK : (block + 1) * BLOCK]
        start, end = (int(each) for each in self._starts[block : block + 2])
        similar = np.asarray(self.similarities[start:end])
        passed = np.concatenate(([0], np.cumsum(similar >= SIMILARITY.type(threshold))))
        ends = np.cumsum(rows["matches"], dtype=np.int64)
        return np.diff(passed[ends], prepend=0)

    def select(
        self, kinds: Collection[str], splits: Collection[str] | None = None, source: str | None = None
    ) -> RecordSelection:
        """Records of these kinds, of any of the splits and of the source; None: all."""
        selected = [
            code
            for code, (group, _) in enumerate(self.header.groups)
            if group.kind in kinds
            and (splits is None or group.split in splits)
            and (source is None or group.source == source)
        ]
        return RecordSelection(self._codes, self._blocks, selected)

    def _map(self, storage: ShardStorage, name: str, item: np.dtype[Any], count: int) -> np.ndarray:
        """Raises: UserError ``corpus_unreadable`` for a file of another size; StoreError."""
        path = storage.local_file(name, self.header.files[name])
        if (found := path.stat().st_size) != count * item.itemsize:
            size = f"{found:,} bytes for {self.header.records:,} records, not {count * item.itemsize:,}"
            raise damaged_shard_error(name, f"it has {size}")
        return _map_file(path, item)


def _read_header(storage: ShardStorage) -> bytes:
    """Raises: UserError ``not_found``, or what reading it raises."""
    try:
        return storage.read(HEADER)
    except UserError as error:
        if error.code != "file_missing":
            raise
        message = f"there is no {HEADER} here, so no finished corpus of shards; lcl data convert makes one"
        raise UserError(message, code="not_found", file=storage.name) from error


def write_index(
    folder: Path,
    parts: Iterable[tuple[np.ndarray, np.ndarray]],
    groups: Iterable[RecordGroup],
    shards: Iterable[ShardFile],
    quarantined: dict[str, int] | None = None,
) -> IndexHeader:
    """Write the index below ``folder``, the header last. Memory: that of a part and of the figures of blocks.

    Args:
        parts: arrays of ``ROW`` and the similarities of these rows, in order of the records.
    """
    known = tuple(groups)
    (folder / ROWS).parent.mkdir(parents=True, exist_ok=True)
    records = images = text_bytes = 0
    row_file, code_file, similarity_file = ((folder / name).open("wb") for name in (ROWS, GROUPS, SIMILARITIES))
    with row_file, code_file, similarity_file:
        for rows, similarities in parts:
            row_file.write(np.ascontiguousarray(rows, ROW).tobytes())
            code_file.write(np.ascontiguousarray(rows["group"]).tobytes())
            similarity_file.write(np.ascontiguousarray(similarities, SIMILARITY).tobytes())
            records += len(rows)
            images += int(rows["images"].sum(dtype=np.int64))
            text_bytes += int(rows["text"].sum(dtype=np.int64))
    counts = count_blocks(_map_file(folder / GROUPS, CODE), len(known))
    matches = _map_file(folder / ROWS, ROW)["matches"]
    in_blocks = [matches[start : start + BLOCK].sum(dtype=np.int64) for start in range(0, records, BLOCK)]
    (folder / BLOCKS).write_bytes(counts.tobytes())
    (folder / STARTS).write_bytes(np.cumsum([0, *in_blocks]).astype(START).tobytes())
    numbers = counts.sum(axis=0, dtype=np.int64).tolist()
    header = IndexHeader(
        records,
        tuple(shards),
        tuple(zip(known, numbers, strict=True)),
        {name: sha256_file(folder / name) for name in (ROWS, GROUPS, BLOCKS, SIMILARITIES, STARTS)},
        images,
        text_bytes,
        quarantined or {},
    )
    (folder / HEADER).write_text(header.to_json(), encoding="utf-8")
    return header


def _map_file(path: Path, item: np.dtype[Any]) -> np.ndarray:
    """The items of a file; no empty one can be mapped."""
    return np.memmap(path, item, "r") if path.stat().st_size else np.empty(0, item)
