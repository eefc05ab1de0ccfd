"""From any reader's records to the sharded form."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lcl_core.data.record import BadItem, Pair, Picture, Record
from lcl_core.data.shards.body import kind_of, names_of, similarities_of, texts_of, to_json
from lcl_core.data.shards.groups import Group
from lcl_core.data.shards.index import Header
from lcl_core.data.shards.layout import LEFT_OUT, MAX_RECORD_BYTES, MAX_RECORD_IMAGES, QUARANTINE
from lcl_core.data.shards.pictures import packed_picture
from lcl_core.data.shards.targets import open_target
from lcl_core.data.shards.writer import ShardWriter
from lcl_core.errors import UserError

DEFAULT_SHARD_BYTES = 256 << 20
_AHEAD = 16  # records whose pictures are looked at while earlier ones are written
_THREADS = 4

Packed = tuple[bytes, str]
_Looking = tuple[Record, dict[str, "Future[Packed | UserError]"]]


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
            quarantine = _Quarantine(file.write)
            _write_all(records, writer, quarantine, max_side, on_progress or (lambda done, total: None))
        if not (writer.records or allow_empty):
            raise _nothing_converted(quarantine.counts)
        header = writer.finish(dict(sorted(quarantine.counts.items())))
    return _report(target, header, work.removed_leftover)


def _report(target: str | Path, header: Header, removed_leftover: bool) -> ConvertReport:
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


def _nothing_converted(quarantined: Mapping[str, int]) -> UserError:
    reasons = ", ".join(f"{reason}: {number}" for reason, number in sorted(quarantined.items())) or "it is empty"
    return UserError(f"nothing of the corpus could be converted ({reasons})", code="nothing_converted")


class _Quarantine:
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
    quarantine: _Quarantine,
    max_side: int | None,
    on_progress: Callable[[int, int | None], None],
) -> None:
    """Files are read here, one after the other; only looking at pictures, which is most of the work, is shared out."""
    waiting: deque[_Looking] = deque()
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            for done, item in enumerate(records, start=1):
                if isinstance(item, BadItem):
                    quarantine.add(item.file, item.line, "", item.reason, item.detail)
                else:
                    waiting.append((item, _look_at_pictures(item, pool, max_side)))
                if len(waiting) > _AHEAD:
                    _write(*waiting.popleft(), writer, quarantine)
                on_progress(done, None)
            while waiting:
                _write(*waiting.popleft(), writer, quarantine)
        finally:
            for _, futures in waiting:
                for future in futures.values():
                    future.cancel()


def _look_at_pictures(record: Record, pool: ThreadPoolExecutor, max_side: int | None) -> dict[str, Any]:
    """A future for each picture that the record's body names."""
    given = {picture.name: picture for picture in record.pictures}
    futures: dict[str, Future[Packed | UserError]] = {}
    for name in names_of(record.body):
        if name not in given:
            problem = UserError("the record names a picture that it does not have", code="file_missing", file=name)
            futures[name] = pool.submit(partial(_given, problem))
            continue
        try:
            data = given[name].load()
        except UserError as error:
            futures[name] = pool.submit(partial(_given, error))
            continue
        futures[name] = pool.submit(_packed, Picture(name, partial(_given, data)), max_side)
    return futures


def _given(value: Any) -> Any:
    return value


def _packed(picture: Picture, max_side: int | None) -> Packed | UserError:
    try:
        return packed_picture(picture, max_side)
    except UserError as error:
        return error


def _write(
    record: Record, futures: dict[str, Future[Packed | UserError]], writer: ShardWriter, quarantine: _Quarantine
) -> None:
    """One record with the pictures that can be had; none of them, and it goes to the quarantine whole."""
    pictures: dict[str, Packed] = {}
    had = 0
    for name, future in futures.items():
        got = future.result()
        if isinstance(got, UserError):
            quarantine.add(name, 0, record.id, got.code, str(got))
            got = (b"", LEFT_OUT)
        else:
            had += 1
        pictures[name] = got
    if isinstance(record.body, Pair) and not had:
        return
    description = to_json(record, {name: extension for name, (_, extension) in pictures.items()})
    similarities = similarities_of(record.body)
    size = len(description) + sum(len(data) for data, _ in pictures.values())
    if size > MAX_RECORD_BYTES or max(len(pictures), len(similarities)) > MAX_RECORD_IMAGES:
        detail = f"the record has more than {MAX_RECORD_BYTES:,} bytes or {MAX_RECORD_IMAGES:,} images"
        quarantine.add(record.id, 0, record.id, "record_too_large", detail)
        return
    group = Group(kind_of(record.body), record.split, record.source)
    text_bytes = sum(len(text.encode("utf-8", "replace")) for text in texts_of(record.body))
    writer.add(group, description, list(pictures.values()), text_bytes, similarities)
