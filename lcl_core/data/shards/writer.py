"""The shards of a part of the input: images are decoded to see that they can be, and records become tar members."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from lcl_core.common.errors import StoreError, UserError
from lcl_core.data.image_decoding import FORMATS, MAX_IMAGE_BYTES, decode_image
from lcl_core.data.records import BadItem, CaptionedImage, Record, body_image_names, body_texts
from lcl_core.data.shards.format import (
    LEFT_OUT,
    MAX_RECORD_BYTES,
    MAX_RECORD_IMAGES,
    ROW,
    SIMILARITY,
    TAR_END,
    best_similarities,
    body_kind,
    encode_record,
    tar_member,
)
from lcl_core.data.shards.index import RecordGroup, ShardFile

THREADS = 4  # of one process that decodes
_LOOKAHEAD = 16  # records whose images are decoded while earlier ones are written
_EXTENSIONS = {
    "PNG": "png", "JPEG": "jpg", "MPO": "jpg", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif",
    "PPM": "ppm", "AVIF": "avif",
}  # fmt: skip
PackedImage = tuple[bytes, str]  # the file's bytes, its extension
_PendingImages = dict[str, "Future[PackedImage | UserError]"]


class ShardWriter:
    """Writes the records of a part: the same records give the same bytes.

    Args:
        folder: exists; shards are written to its folder ``shards``.
        name: of the part; that of a shard is followed by its number.
        shard_bytes: a shard is closed before it grows beyond this; a larger record has a shard of its own.

    Attributes:
        rows: ``ROW`` of each record; shards and groups are numbered from 0 in the part.
        groups: what the group codes stand for.
        shards: those that are complete; all of them after ``close``.
    """

    def __init__(self, folder: Path, name: str, shard_bytes: int) -> None:
        self._folder, self._name, self._shard_bytes = folder, name, shard_bytes
        (folder / "shards").mkdir(exist_ok=True)
        self.rows: list[tuple[int, ...]] = []
        self.similarities: list[float] = []
        self.groups: dict[RecordGroup, int] = {}
        self.shards: list[ShardFile] = []
        self._shard: _ShardTar | None = None

    def add(self, record: Record, images: dict[str, PackedImage]) -> None:
        """Append a record. ``images``: by name, in order; those without bytes only have their number.

        Raises: UserError ``too_large``.
        """
        key = f"{len(self.rows):09d}"
        similarities = best_similarities(record.body)
        head = tar_member(f"{key}.json", encode_record(record, {name: kind for name, (_, kind) in images.items()}))
        members = (tar_member(f"{key}.{n}.{kind}", data) for n, (data, kind) in enumerate(images.values()) if data)
        data = b"".join((head, *members))
        if len(data) > MAX_RECORD_BYTES or max(len(images), len(similarities)) > MAX_RECORD_IMAGES:
            message = f"the record has more than {MAX_RECORD_BYTES:,} bytes or {MAX_RECORD_IMAGES:,} images"
            raise UserError(message, code="too_large")
        if self._shard is not None and self._shard.bytes + len(data) + len(TAR_END) > self._shard_bytes:
            self.shards.append(self._shard.close())
            self._shard = None
        if self._shard is None:
            name = f"shards/{self._name}-{len(self.shards):03d}.tar"
            self._shard = _ShardTar(self._folder / name, name)
        code = self.groups.setdefault(
            RecordGroup(body_kind(record.body), record.split, record.source), len(self.groups)
        )
        text_bytes = sum(len(text.encode("utf-8", "replace")) for text in body_texts(record.body))
        place = (self._shard.bytes, len(data), len(head), text_bytes, len(self.shards))
        self.rows.append((*place, len(images), len(similarities), code))
        self.similarities += similarities
        self._shard.write(data)

    def close(self) -> None:
        """Close the last shard, and write rows and similarities beside the shards."""
        if self._shard is not None:
            self.shards.append(self._shard.close())
            self._shard = None
        np.save(self._folder / "rows.npy", np.array(self.rows, ROW))
        np.save(self._folder / "similarities.npy", np.array(self.similarities, SIMILARITY))


class _ShardTar:
    """A tar file that is being written, as a shard of that name."""

    def __init__(self, path: Path, name: str) -> None:
        self._file: BinaryIO = path.open("wb")
        self._digest = hashlib.sha256()
        self._name, self._records = name, 0
        self.bytes = 0

    def write(self, data: bytes) -> None:
        self._append(data)
        self._records += 1

    def close(self) -> ShardFile:
        self._append(TAR_END)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return ShardFile(self._name, self.bytes, self._digest.hexdigest(), self._records)

    def _append(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.bytes += len(data)


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
    on_progress: Callable[[], None],
    threads: int,
    on_written: Callable[[Record], None],
) -> None:
    """Write records, and list what is left out, both in the order of the records.

    Files are read in this thread, one after the other; decoding, which is most of the work, runs in ``threads``.

    Args:
        on_progress: called after each.
        on_written: called with each record that is written.
    """
    pending: deque[tuple[Record | BadItem, _PendingImages]] = deque()

    def write_next() -> None:
        item, futures = pending.popleft()
        if isinstance(item, BadItem):
            quarantine.add(item.file, item.line, "", item.reason, item.detail)
        elif _write(item, futures, writer, quarantine):
            on_written(item)

    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in records:
                pending.append((item, {} if isinstance(item, BadItem) else _submit_images(item, pool)))
                if len(pending) > _LOOKAHEAD:
                    write_next()
                on_progress()
            while pending:
                write_next()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _submit_images(record: Record, pool: ThreadPoolExecutor) -> _PendingImages:
    """A future for each image that the record's body names."""
    images = {image.name: image for image in record.images}
    futures: _PendingImages = {}
    for name in body_image_names(record.body):
        try:
            if name not in images:
                message = "the record names an image that it does not have"
                raise UserError(message, code="file_missing", file=name)
            futures[name] = pool.submit(_pack_image, name, images[name].load(), images[name].decodes)
        except StoreError:
            raise
        except UserError as error:
            futures[name] = Future()
            futures[name].set_result(error)
    return futures


def _pack_image(name: str, data: bytes, decodes: bool) -> PackedImage | UserError:
    """The file's bytes, which stay as they are, and its extension; what keeps it from being decoded."""
    try:
        if len(data) > MAX_IMAGE_BYTES:
            raise UserError(f"the file is larger than {MAX_IMAGE_BYTES:,} bytes", code="too_large", file=name)
        if not decodes:
            decode_image(data, name)
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            return data, _EXTENSIONS[opened.format or ""]
    except UserError as error:
        return error


def _write(record: Record, futures: _PendingImages, writer: ShardWriter, quarantine: QuarantineLog) -> bool:
    """Write a record with its available images; False: it went to the quarantine, as does a pair without its image."""
    images: dict[str, PackedImage] = {}
    for name, future in futures.items():
        packed = future.result()
        if isinstance(packed, UserError):
            quarantine.add(name, 0, record.id, packed.code, str(packed))
            packed = (b"", LEFT_OUT)
        images[name] = packed
    if isinstance(record.body, CaptionedImage) and all(kind == LEFT_OUT for _, kind in images.values()):
        return False
    try:
        writer.add(record, images)
    except UserError as error:
        quarantine.add(record.id, 0, record.id, error.code, error.message)
        return False
    return True
