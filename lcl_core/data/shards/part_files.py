"""What the tasks of a conversion do: count the items of a section, convert a part, join parts to a shard.

A part is converted to one tar whose records are numbered from 0. Where its records go in the corpus is known when all
parts before it are complete: :class:`ShardLayout` assigns them to shards as :class:`ShardWriter` does, and the tars of
parts are joined to shards in which every record has its number in the corpus.

    parts/PART.TOKEN/shards/000000.tar   records as they will lie in their shards, but for their numbers
    parts/PART.TOKEN/rows.tmp            a row of ``ROW`` a record, group codes of this part
    parts/PART.TOKEN/similarities.tmp
    parts/PART.TOKEN/quarantine.jsonl
    parts/PART.TOKEN/part.json           manifest: items, records, groups, what was left out, statistics

TOKEN belongs to one attempt at the part; folders that the log of completed tasks does not name are of no use.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from lcl_core.common.files import write_json_atomically
from lcl_core.common.storage import Storage
from lcl_core.data.records import BadItem, Record
from lcl_core.data.shards.convert import THREADS, QuarantineLog, write_records
from lcl_core.data.shards.format import QUARANTINE, ROW, TAR_BLOCK, TAR_END, check_shard_number, shard_name, tar_padded
from lcl_core.data.shards.statistics import ConversionStatistics
from lcl_core.data.shards.writer import ROW_FILE, ShardTar, ShardWriter
from lcl_core.parts.plan import PartSource, SectionCursor
from lcl_core.parts.runner import Json, Report

MANIFEST = "part.json"
PART_TAR = shard_name(0)
_UNBOUNDED = 1 << 62  # a part has one tar
RecordTransform = Callable[[Iterator[Record | BadItem]], Iterator[Record | BadItem]]


class ConversionTasks:
    """Handler of the tasks of a conversion.

    Args:
        source: the corpus.
        parts: folder of the parts.
        shards: folder below which shards are written.
        url: where they are uploaded to, and removed from the folder; None: they stay.
        change: sees the records of a part on their way.
        threads: that decode images.
    """

    def __init__(
        self,
        source: PartSource[Record | BadItem],
        parts: Path,
        shards: Path,
        url: str | None = None,
        change: RecordTransform = iter,
        threads: int = THREADS,
    ) -> None:
        self._source, self._parts, self._shards = source, parts, shards
        self._storage = None if url is None else Storage(url)
        self._cursor = SectionCursor(source)
        self._change, self._threads = change, threads

    def __call__(self, arguments: Json, report: Report) -> Json:
        if arguments["kind"] == "count":
            return {"items": self._source.count_section(arguments["section"])}
        if arguments["kind"] == "part":
            return self._convert_part(arguments, report)
        return self._join_shard(arguments)

    def _convert_part(self, arguments: Json, report: Report) -> Json:
        folder = self._parts / f"{arguments['name']}.{secrets.token_hex(6)}"
        folder.mkdir(parents=True)
        try:
            manifest = self._write_part(folder, arguments, report)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return {"folder": folder.name, **{key: manifest[key] for key in ("items", "records", "ended")}}

    def _write_part(self, folder: Path, arguments: Json, report: Report) -> Json:
        statistics = ConversionStatistics()
        items = self._cursor.read(arguments["section"], arguments["start"], arguments["limit"])
        records = self._change(items)
        writer = ShardWriter(folder, _UNBOUNDED, lambda name: None)
        with (folder / QUARANTINE).open("w", encoding="utf-8") as file:
            quarantine = QuarantineLog(file.write)
            done = partial(_report_items, report, self._cursor)
            write_records(records, writer, quarantine, None, done, self._threads, statistics.add)
            if quarantine.counts:
                file.flush()
                os.fsync(file.fileno())
        writer.close()
        manifest = {
            "items": self._cursor.items,
            "ended": self._cursor.ended,
            "records": writer.records,
            "groups": [asdict(group) for group in writer.groups],
            "quarantined": dict(quarantine.counts),
            "statistics": statistics.counts(),
        }
        write_json_atomically(folder / MANIFEST, manifest)
        return manifest

    def _join_shard(self, arguments: Json) -> Json:
        name = shard_name(arguments["number"])
        path = self._shards / f"{name}.{secrets.token_hex(6)}"
        try:
            tar = ShardTar(path, name)
            record = arguments["first"]
            for folder, start, count in arguments["slices"]:
                for data in _read_records(self._parts / folder, start, count):
                    renumber_record(data, record)
                    tar.write(data)
                    record += 1
            shard = tar.close()
            if self._storage is None:
                path.replace(self._shards / name)
            else:
                self._storage.with_retries(name, "written", lambda files, to: files.put_file(str(path), to))
        finally:
            path.unlink(missing_ok=True)
        return asdict(shard)


def _report_items(report: Report, cursor: SectionCursor[Record | BadItem], done: int, total: int | None) -> None:
    """Items of the input: a transform may make more or fewer of them."""
    report(cursor.items)


def read_rows(part: Path, start: int = 0, count: int = -1) -> np.ndarray:
    """Rows of a part. Raises: OSError, ValueError where there are fewer."""
    rows = np.fromfile(part / ROW_FILE, ROW, count, offset=start * ROW.itemsize)
    if count not in (-1, len(rows)):
        raise ValueError(f"{part.name} has {start + len(rows):,} rows where {start + count:,} were written")
    return rows


def _read_records(part: Path, start: int, count: int) -> Iterator[bytearray]:
    """Tar members of each of some records of a part."""
    rows = read_rows(part, start, count)
    with (part / PART_TAR).open("rb") as file:
        file.seek(int(rows["offset"][0]))
        for length in rows["length"].tolist():
            data = bytearray(length)
            if file.readinto(data) != length:
                raise ValueError(f"{part.name} ends too early")
            yield data


def renumber_record(data: bytearray, record: int) -> None:
    """Write another number to the names of a record's tar members, and the checksums of their headers."""
    number = b"%09d" % record
    at = 0
    while at < len(data):
        size = int(data[at + 124 : at + 135], 8)
        checksum = int(data[at + 148 : at + 154], 8) + sum(number) - sum(data[at : at + len(number)])
        data[at : at + len(number)] = number
        data[at + 148 : at + 154] = b"%06o" % checksum
        at += TAR_BLOCK + tar_padded(size)


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """Which records of which parts make a shard: (part's folder, first record in it, number of records) each."""

    number: int
    first: int
    slices: tuple[tuple[str, int, int], ...]


class ShardLayout:
    """Assigns records to shards, as :class:`ShardWriter` would that got them one by one.

    Memory: the slices of one shard.
    """

    def __init__(self, shard_bytes: int) -> None:
        self._shard_bytes = shard_bytes
        self._shard, self._bytes, self._first = 0, 0, 0
        self._slices: list[tuple[str, int, int]] = []
        self.records = 0

    def add(self, folder: str, lengths: np.ndarray) -> tuple[list[ShardPlan], np.ndarray, np.ndarray]:
        """The next part. Returns: shards that are full, and the shard and the offset in it of each record.

        Raises: UserError ``corpus_too_large`` where the records need more shards than a header can name.
        """
        ends = np.cumsum(lengths, dtype=np.int64)
        shards, offsets = np.empty(len(ends), np.int64), np.empty(len(ends), np.int64)
        full: list[ShardPlan] = []
        at = 0
        while at < len(ends):
            before = int(ends[at - 1]) if at else 0
            room = self._shard_bytes - len(TAR_END) - self._bytes
            stop = int(np.searchsorted(ends, before + room, side="right"))
            if stop <= at and self._bytes:
                full += self.finish()
                continue
            stop = max(stop, at + 1)  # a record that is larger than a shard has one of its own
            check_shard_number(self._shard)
            shards[at:stop] = self._shard
            offsets[at:stop] = self._bytes + ends[at:stop] - lengths[at:stop] - before
            self._bytes += int(ends[stop - 1]) - before
            self._slices.append((folder, at, stop - at))
            self.records += stop - at
            at = stop
        return full, shards, offsets

    def finish(self) -> list[ShardPlan]:
        """The shard that has been begun, if there is one."""
        if not self._slices:
            return []
        plan = ShardPlan(self._shard, self._first, tuple(self._slices))
        self._shard, self._bytes, self._slices, self._first = self._shard + 1, 0, [], self.records
        return [plan]
