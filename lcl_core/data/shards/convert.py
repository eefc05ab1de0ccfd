"""Records of any reader to the sharded form. Every image is decoded once as a check; its bytes are kept."""

from __future__ import annotations

import io
import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from PIL import Image

from lcl_core.common.errors import StoreError, UserError
from lcl_core.data.image_decoding import FORMATS, MAX_IMAGE_BYTES, decode_image
from lcl_core.data.records import BadItem, CaptionedImage, Record, RecordImage, body_image_names, body_texts
from lcl_core.data.shards.format import (
    LEFT_OUT,
    MAX_RECORD_BYTES,
    MAX_RECORD_IMAGES,
    QUARANTINE,
    best_similarities,
    body_kind,
    encode_record,
    member_bytes,
)
from lcl_core.data.shards.index import IndexHeader, RecordGroup
from lcl_core.data.shards.writer import ShardWriter, open_target

DEFAULT_SHARD_BYTES = 256 << 20
_EXTENSIONS = {
    "PNG": "png", "JPEG": "jpg", "MPO": "jpg", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif",
    "PPM": "ppm", "AVIF": "avif",
}  # fmt: skip
_JPEG_QUALITY = 92
_LOOKAHEAD = 16  # records whose images are decoded while earlier ones are written
THREADS = 4  # of one process that decodes

P = ParamSpec("P")
T = TypeVar("T")
PackedImage = tuple[bytes, str]  # the file's bytes, its extension
_PendingImages = dict[str, "Future[PackedImage | UserError]"]


@dataclass(frozen=True, slots=True)
class ConvertReport:
    """Result of a conversion.

    Attributes:
        images: images of all records, those without bytes too.
        quarantined: items and images left out, by reason; ``quarantine.jsonl`` names each.
        removed_leftover: whether files of an earlier, interrupted conversion were removed.
    """

    path: str
    records: int
    pictures: int
    shards: int
    bytes: int
    quarantined: dict[str, int]
    content_hash: str
    removed_leftover: bool


def convert(
    records: Iterable[Record | BadItem],
    target: str | Path,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    max_side: int | None = None,
    on_progress: Callable[[int, int | None], None] = lambda done, total: None,
    owner: str = "",
    scratch: Path | None = None,
    allow_empty: bool = True,
) -> ConvertReport:
    """Write ``records`` to ``target``: a folder that appears only when all is done, or a URL whose index comes last.

    Args:
        shard_bytes: bound on a shard, unless one record alone is larger.
        max_side: shrink larger images to this width and height; None: every file stays as it is.
        on_progress: called with (items read, None) after each.
        owner: who converts; files of an earlier attempt by the same owner at a URL are replaced.
        scratch: folder for files before their upload to a URL; None: the system's for temporary files.
        allow_empty: whether a corpus without records is written.

    Raises:
        UserError: ``target_exists``, ``conversion_running``, ``nothing_converted``, ``corpus_too_large``, or what the
            reader raises; nothing is left at ``target``.
    """
    with open_target(target, owner, scratch) as staging:
        writer = ShardWriter(staging.folder, shard_bytes, staging.finished)
        with (staging.folder / QUARANTINE).open("w", encoding="utf-8") as file:
            quarantine = QuarantineLog(file.write)
            write_records(records, writer, quarantine, max_side, on_progress)
        if not (writer.records or allow_empty):
            raise nothing_converted_error(quarantine.counts)
        header = writer.finish(dict(sorted(quarantine.counts.items())))
    return make_report(target, header, staging.removed_leftover)


def make_report(target: str | Path, header: IndexHeader, removed_leftover: bool) -> ConvertReport:
    return ConvertReport(
        str(target),
        header.records,
        header.images,
        len(header.shards),
        sum(shard.bytes for shard in header.shards),
        header.quarantined,
        header.content_hash(),
        removed_leftover,
    )


def nothing_converted_error(quarantined: Mapping[str, int]) -> UserError:
    reasons = ", ".join(f"{reason}: {number}" for reason, number in sorted(quarantined.items())) or "it is empty"
    return UserError(f"nothing of the corpus could be converted ({reasons})", code="nothing_converted")


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
    max_side: int | None,
    on_progress: Callable[[int, int | None], None],
    threads: int = THREADS,
    on_written: Callable[[Record], None] = lambda record: None,
) -> None:
    """Write records, and list what is left out, both in the order of the records.

    Files are read in this thread, one after the other; decoding, which is most of the work, runs in ``threads`` of its
    own. One thread would only take turns with this one, so images are decoded in this one instead.

    Args:
        on_progress: called with (items read, None) after each.
        on_written: called with each record that is written.
    """
    pending: deque[tuple[Record | BadItem, _PendingImages]] = deque()
    with ThreadPoolExecutor(threads) if threads > 1 else _CallingThread() as pool:
        try:
            for done, item in enumerate(records, start=1):
                pending.append((item, {} if isinstance(item, BadItem) else _submit_images(item, pool, max_side)))
                if len(pending) > _LOOKAHEAD:
                    _write(*pending.popleft(), writer, quarantine, on_written)
                on_progress(done, None)
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


def _submit_images(record: Record, pool: Executor, max_side: int | None) -> _PendingImages:
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
            futures[name] = pool.submit(_pack_or_error, replace(images[name], load=partial(bytes, data)), max_side)
    return futures


def _pack_or_error(image: RecordImage, max_side: int | None) -> PackedImage | UserError:
    try:
        return pack_image(image, max_side)
    except UserError as error:
        return error


def pack_image(image: RecordImage, max_side: int | None) -> PackedImage:
    """The file's bytes, shrunk only where a side exceeds ``max_side``, and its extension.

    Raises: UserError for an image that cannot be loaded or decoded, or has too many bytes.
    """
    data = image.load()
    if len(data) > MAX_IMAGE_BYTES:
        message = f"the file is larger than {MAX_IMAGE_BYTES:,} bytes"
        raise UserError(message, code="file_too_large", file=image.name)
    decoded = None if image.decodes and max_side is None else decode_image(data, image.name)
    with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
        kind = opened.format or ""
    if decoded is None or max_side is None or max(decoded.size) <= max_side:
        return data, _EXTENSIONS[kind]
    decoded.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    packed = io.BytesIO()
    if kind in ("PNG", "BMP", "PPM"):
        decoded.save(packed, "PNG")
        return packed.getvalue(), "png"
    decoded.save(packed, "JPEG", quality=_JPEG_QUALITY)
    return packed.getvalue(), "jpg"


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
