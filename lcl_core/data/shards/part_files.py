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

import io
import json
import os
import secrets
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
from PIL import Image

from lcl_core.common.errors import StoreError, UserError
from lcl_core.common.files import write_json_atomically
from lcl_core.common.storage import Storage
from lcl_core.data.image_decoding import FORMATS, MAX_IMAGE_BYTES, decode_image
from lcl_core.data.records import BadItem, CaptionedImage, Record, body_image_names, body_texts
from lcl_core.data.shards.format import (
    LEFT_OUT,
    MAX_RECORD_BYTES,
    MAX_RECORD_IMAGES,
    QUARANTINE,
    ROW,
    TAR_BLOCK,
    TAR_END,
    best_similarities,
    body_kind,
    check_shard_number,
    encode_record,
    member_bytes,
    shard_name,
    tar_padded,
)
from lcl_core.data.shards.index import RecordGroup
from lcl_core.data.shards.statistics import ConversionStatistics
from lcl_core.data.shards.writer import ROW_FILE, ShardTar, ShardWriter
from lcl_core.parts.plan import PartSource, SectionCursor
from lcl_core.parts.runner import Json, Report

THREADS = 4  # of one process that decodes
_LOOKAHEAD = 16  # records whose images are decoded while earlier ones are written
_EXTENSIONS = {
    "PNG": "png", "JPEG": "jpg", "MPO": "jpg", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif",
    "PPM": "ppm", "AVIF": "avif",
}  # fmt: skip
P = ParamSpec("P")
T = TypeVar("T")
PackedImage = tuple[bytes, str]  # the file's bytes, its extension
_PendingImages = dict[str, "Future[PackedImage | UserError]"]
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
        writer = ShardWriter(folder, _UNBOUNDED)
        with (folder / QUARANTINE).open("w", encoding="utf-8") as file:
            quarantine = QuarantineLog(file.write)
            # items of the input: a transform may make more or fewer of them
            write_records(
                records, writer, quarantine, lambda: report(self._cursor.items), self._threads, statistics.add
            )
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


class QuarantineLog:
    """Lines of the items left out, and their counts by reason."""

    def __init__(self, write: Callable[[str], Any]) -> None:
        self._write = write
        self.counts: Counter[str] = Counter()

    def add(self, file: str, line: int, id: str, reason: str, detail: str) -> None:
        self.counts[reason] += 1
        entry = {"file": file, "line": line, "id": id, "reason": reason, "detail": detail}
        self._write(json.dumps(entry, ensure_ascii=True, sort_keys=True) + "\n")


def write_records(
    records: Iterable[Record | BadItem],
    writer: ShardWriter,
    quarantine: QuarantineLog,
    on_progress: Callable[[], None] = lambda: None,
    threads: int = THREADS,
    on_written: Callable[[Record], None] = lambda record: None,
) -> None:
    """Write records, and list what is left out, both in the order of the records.

    Files are read in this thread, one after the other; decoding, which is most of the work, runs in ``threads`` of its
    own. One thread would only take turns with this one, so images are decoded in this one instead.

    Args:
        on_progress: called after each.
        on_written: called with each record that is written.
    """
    pending: deque[tuple[Record | BadItem, _PendingImages]] = deque()
    with ThreadPoolExecutor(threads) if threads > 1 else _CallingThread() as pool:
        try:
            for item in records:
                pending.append((item, {} if isinstance(item, BadItem) else _submit_images(item, pool)))
                if len(pending) > _LOOKAHEAD:
                    _write(*pending.popleft(), writer, quarantine, on_written)
                on_progress()
            while pending:
                _write(*pending.popleft(), writer, quarantine, on_written)
        finally:
            for _, futures in pending:
                for future in futures.values():
                    future.cancel()


class _CallingThread(Executor):
    """Calls functions at once, in the thread that submits them. What they raise is raised there."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def _submit_images(record: Record, pool: Executor) -> _PendingImages:
    """A future for each image that the record's body names."""
    images = {image.name: image for image in record.images}
    futures: _PendingImages = {}
    for name in body_image_names(record.body):
        try:
            if name not in images:
                message = "the record names an image that it does not have"
                raise UserError(message, code="file_missing", file=name)
            data = images[name].load()
        except StoreError:
            raise
        except UserError as error:
            futures[name] = Future()
            futures[name].set_result(error)
        else:
            futures[name] = pool.submit(_pack_image, name, data, images[name].decodes)
    return futures


def _pack_image(name: str, data: bytes, decodes: bool) -> PackedImage | UserError:
    """The file's bytes, which stay as they are, and its extension; what keeps it from being decoded."""
    try:
        if len(data) > MAX_IMAGE_BYTES:
            raise UserError(f"the file is larger than {MAX_IMAGE_BYTES:,} bytes", code="file_too_large", file=name)
        if not decodes:
            decode_image(data, name)
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            return data, _EXTENSIONS[opened.format or ""]
    except UserError as error:
        return error


def _write(
    record: Record | BadItem,
    futures: _PendingImages,
    writer: ShardWriter,
    quarantine: QuarantineLog,
    on_written: Callable[[Record], None],
) -> None:
    """Write a record with its available images. A captioned image without its image goes to the quarantine."""
    if isinstance(record, BadItem):
        quarantine.add(record.file, record.line, "", record.reason, record.detail)
        return
    images: dict[str, PackedImage] = {}
    for name, future in futures.items():
        packed = future.result()
        if isinstance(packed, UserError):
            quarantine.add(name, 0, record.id, packed.code, str(packed))
            packed = (b"", LEFT_OUT)
        images[name] = packed
    if isinstance(record.body, CaptionedImage) and all(kind == LEFT_OUT for _, kind in images.values()):
        return
    description = encode_record(record, {name: extension for name, (_, extension) in images.items()})
    similarities = best_similarities(record.body)
    size = member_bytes(len(description)) + sum(member_bytes(len(data)) for data, _ in images.values() if data)
    if size > MAX_RECORD_BYTES or max(len(images), len(similarities)) > MAX_RECORD_IMAGES:
        detail = f"the record has more than {MAX_RECORD_BYTES:,} bytes or {MAX_RECORD_IMAGES:,} images"
        quarantine.add(record.id, 0, record.id, "record_too_large", detail)
        return
    group = RecordGroup(body_kind(record.body), record.split, record.source)
    text_bytes = sum(len(text.encode("utf-8", "replace")) for text in body_texts(record.body))
    writer.add(group, description, list(images.values()), text_bytes, similarities)
    on_written(record)


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
