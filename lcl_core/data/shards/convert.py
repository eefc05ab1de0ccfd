"""Records of any reader to the sharded form. Every image is decoded once as a check; its bytes are kept."""

from __future__ import annotations

import io
import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from lcl_core.common.errors import UserError
from lcl_core.data.image_decoding import FORMATS, MAX_IMAGE_BYTES, decode_image
from lcl_core.data.records import BadItem, CaptionedImage, Record, RecordImage
from lcl_core.data.shards.format import (
    LEFT_OUT,
    MAX_RECORD_BYTES,
    MAX_RECORD_IMAGES,
    QUARANTINE,
    best_similarities,
    body_image_names,
    body_kind,
    body_texts,
    encode_record,
)
from lcl_core.data.shards.index import IndexHeader, RecordGroup
from lcl_core.data.shards.writer import ShardWriter, open_target

_EXTENSIONS = {
    "PNG": "png", "JPEG": "jpg", "MPO": "jpg", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif",
    "PPM": "ppm", "AVIF": "avif",
}  # fmt: skip
_JPEG_QUALITY = 92


def pack_image(picture: RecordImage, max_side: int | None) -> tuple[bytes, str]:
    """(the file's bytes, its extension); made smaller only where a side exceeds ``max_side``.

    Raises: UserError for a picture that cannot be had or decoded, or has too many bytes.
    """
    data = picture.load()
    if len(data) > MAX_IMAGE_BYTES:
        message = f"the file is larger than {MAX_IMAGE_BYTES:,} bytes"
        raise UserError(message, code="file_too_large", file=picture.name)
    image = decode_image(data, picture.name)
    with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
        kind = opened.format or ""
    if max_side is None or max(image.size) <= max_side:
        return data, _EXTENSIONS[kind]
    return _shrink(image, max_side, lossless=kind in ("PNG", "BMP", "PPM"))


def _shrink(image: Image.Image, max_side: int, lossless: bool) -> tuple[bytes, str]:
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    packed = io.BytesIO()
    if lossless:
        image.save(packed, "PNG")
        return packed.getvalue(), "png"
    image.save(packed, "JPEG", quality=_JPEG_QUALITY)
    return packed.getvalue(), "jpg"


DEFAULT_SHARD_BYTES = 256 << 20
_LOOKAHEAD = 16  # records whose pictures are looked at while earlier ones are written
_THREADS = 4

PackedImage = tuple[bytes, str]
_PendingRecord = tuple[Record, dict[str, "Future[PackedImage | UserError]"]]


@dataclass(frozen=True, slots=True)
class ConvertReport:
    """What a conversion did.

    Attributes:
        pictures: image places of all records, those without bytes too.
        quarantined: items and pictures left out, by reason; ``quarantine.jsonl`` names each.
        removed_leftover: an earlier, interrupted conversion had left something beside the target.
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
    on_progress: Callable[[int, int | None], None] | None = None,
    owner: str = "",
    scratch: Path | None = None,
    allow_empty: bool = True,
) -> ConvertReport:
    """Write ``records`` to ``target``: a folder that appears only when all is done, or a URL whose index comes last.

    Args:
        shard_bytes: bound on a shard, unless one record alone is larger.
        max_side: make larger pictures smaller, width and height at most this; None: every file stays as it is.
        on_progress: called with (items read, None) after each.
        owner: who converts; what an earlier attempt of the same one left at a URL is replaced.
        scratch: folder for what is on its way to a URL; None: the system's for temporary files.
        allow_empty: whether a corpus without records is one.

    Raises:
        UserError: ``target_exists``, ``conversion_running``, ``nothing_converted``, or what the reader raises; nothing
            is left at ``target``.
    """
    with open_target(target, owner, scratch) as work:
        folder = work.folder
        writer = ShardWriter(folder, shard_bytes, work.finished)
        with (folder / QUARANTINE).open("w", encoding="utf-8") as file:
            quarantine = _QuarantineLog(file.write)
            _write_all(records, writer, quarantine, max_side, on_progress or (lambda done, total: None))
        if not (writer.records or allow_empty):
            raise _nothing_converted_error(quarantine.counts)
        header = writer.finish(dict(sorted(quarantine.counts.items())))
    return _make_report(target, header, work.removed_leftover)


def _make_report(target: str | Path, header: IndexHeader, removed_leftover: bool) -> ConvertReport:
    size = sum(shard.bytes for shard in header.shards)
    return ConvertReport(
        str(target),
        header.records,
        header.images,
        len(header.shards),
        size,
        header.quarantined,
        header.content_hash(),
        removed_leftover,
    )


def _nothing_converted_error(quarantined: Mapping[str, int]) -> UserError:
    reasons = ", ".join(f"{reason}: {number}" for reason, number in sorted(quarantined.items())) or "it is empty"
    return UserError(f"nothing of the corpus could be converted ({reasons})", code="nothing_converted")


class _QuarantineLog:
    """Lines of what was left out, and their counts by reason."""

    def __init__(self, write: Callable[[str], Any]) -> None:
        self._write = write
        self.counts: Counter[str] = Counter()

    def add(self, file: str, line: int, id: str, reason: str, detail: str) -> None:
        self.counts[reason] += 1
        entry = {"file": file, "line": line, "id": id, "reason": reason, "detail": detail}
        self._write(json.dumps(entry, ensure_ascii=True, sort_keys=True) + "\n")


def _write_all(
    records: Iterable[Record | BadItem],
    writer: ShardWriter,
    quarantine: _QuarantineLog,
    max_side: int | None,
    on_progress: Callable[[int, int | None], None],
) -> None:
    """Files are read here, one after the other; only looking at pictures, which is most of the work, is shared out."""
    waiting: deque[_PendingRecord] = deque()
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            for done, item in enumerate(records, start=1):
                if isinstance(item, BadItem):
                    quarantine.add(item.file, item.line, "", item.reason, item.detail)
                else:
                    waiting.append((item, _submit_images(item, pool, max_side)))
                if len(waiting) > _LOOKAHEAD:
                    _write(*waiting.popleft(), writer, quarantine)
                on_progress(done, None)
            while waiting:
                _write(*waiting.popleft(), writer, quarantine)
        finally:
            for _, futures in waiting:
                for future in futures.values():
                    future.cancel()


def _submit_images(record: Record, pool: ThreadPoolExecutor, max_side: int | None) -> dict[str, Any]:
    """A future for each picture that the record's body names."""
    given = {picture.name: picture for picture in record.pictures}
    futures: dict[str, Future[PackedImage | UserError]] = {}
    for name in body_image_names(record.body):
        if name not in given:
            problem = UserError("the record names a picture that it does not have", code="file_missing", file=name)
            futures[name] = pool.submit(partial(_identity, problem))
            continue
        try:
            data = given[name].load()
        except UserError as error:
            futures[name] = pool.submit(partial(_identity, error))
            continue
        futures[name] = pool.submit(_pack_or_error, RecordImage(name, partial(_identity, data)), max_side)
    return futures


def _identity(value: Any) -> Any:
    return value


def _pack_or_error(picture: RecordImage, max_side: int | None) -> PackedImage | UserError:
    try:
        return pack_image(picture, max_side)
    except UserError as error:
        return error


def _write(
    record: Record, futures: dict[str, Future[PackedImage | UserError]], writer: ShardWriter, quarantine: _QuarantineLog
) -> None:
    """One record with the pictures that can be had; none of them, and it goes to the quarantine whole."""
    pictures: dict[str, PackedImage] = {}
    had = 0
    for name, future in futures.items():
        got = future.result()
        if isinstance(got, UserError):
            quarantine.add(name, 0, record.id, got.code, str(got))
            got = (b"", LEFT_OUT)
        else:
            had += 1
        pictures[name] = got
    if isinstance(record.body, CaptionedImage) and not had:
        return
    description = encode_record(record, {name: extension for name, (_, extension) in pictures.items()})
    similarities = best_similarities(record.body)
    size = len(description) + sum(len(data) for data, _ in pictures.values())
    if size > MAX_RECORD_BYTES or max(len(pictures), len(similarities)) > MAX_RECORD_IMAGES:
        detail = f"the record has more than {MAX_RECORD_BYTES:,} bytes or {MAX_RECORD_IMAGES:,} images"
        quarantine.add(record.id, 0, record.id, "record_too_large", detail)
        return
    group = RecordGroup(body_kind(record.body), record.split, record.source)
    text_bytes = sum(len(text.encode("utf-8", "replace")) for text in body_texts(record.body))
    writer.add(group, description, list(pictures.values()), text_bytes, similarities)
