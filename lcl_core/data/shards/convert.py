"""Records of any reader to the sharded form: the same bytes by any number of processes, after any interruption.

    WORK/completed.jsonl    log of the parts that are complete
    WORK/parts/PART.TOKEN/  of a part: rows and similarities of its records, groups, statistics, quarantine
    WORK/dataset/           the corpus as far as it is there: shards, at the end quarantine and index

A part of the input is written to shards of its own. WORK is kept when the conversion is interrupted, by whatever; the
next one with the same folder continues. TOKEN belongs to one attempt at a part. At a URL, shards are uploaded as soon
as each is complete; the index comes last: from then on there is a corpus.
"""

from __future__ import annotations

import json
import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from lcl_core.common.errors import UserError
from lcl_core.common.files import fsync_path, fsync_tree
from lcl_core.common.paths import is_url
from lcl_core.common.storage import Storage
from lcl_core.data.records import BadItem, Record
from lcl_core.data.shards.format import HEADER, MAX_GROUPS, MAX_RECORDS, MAX_SHARDS, QUARANTINE
from lcl_core.data.shards.index import IndexHeader, RecordGroup, ShardFile, write_index
from lcl_core.data.shards.statistics import ConversionStatistics
from lcl_core.data.shards.writer import THREADS, QuarantineLog, ShardWriter, write_records
from lcl_core.part_runners import Json, StartRunner, task_threads
from lcl_core.parts import CompletionLog, PartSource, Section, SectionTasks, fingerprint, run_parts

DEFAULT_SHARD_BYTES = 256 << 20
SHARD_ITEMS = 4096  # of a part, whose records are shards of their own
# codes of what a retry may mend
_CONTINUABLE = frozenset(("part_failed", "file_unreadable", "store_unreachable", "store_forbidden"))
RecordTransform = Callable[[Iterator[Record | BadItem]], Iterator[Record | BadItem]]


@dataclass(frozen=True, slots=True)
class ConvertReport:
    """Result of a conversion.

    Attributes:
        pictures: images of all records, those without bytes too.
        quarantined: items and images left out, by reason; ``quarantine.jsonl`` names each.
        statistics: of the records.
        resumed: items of parts that earlier attempts had completed.
    """

    path: str
    records: int
    pictures: int
    shards: int
    bytes: int
    quarantined: dict[str, int]
    content_hash: str
    statistics: dict[str, Any]
    resumed: int


class _OneSection:
    """Records as a source that is walked through once."""

    def __init__(self, records: Iterable[Record | BadItem]) -> None:
        self._records = records

    def sections(self) -> list[Section]:
        return [Section("")]

    def read_section(self, key: str, start: int = 0) -> Iterator[Record | BadItem]:
        return islice(self._records, start, None)

    def count_section(self, key: str) -> int:
        raise NotImplementedError("one process finds the end of a section by itself")


def convert(
    records: Iterable[Record | BadItem],
    target: str | Path,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    on_progress: Callable[[int], None] = lambda done: None,
) -> ConvertReport:
    """Write ``records`` to ``target``: a folder that appears only when all is done, or a URL whose index comes last.

    Raises: UserError ``conflict``, and as :func:`convert_parts`.
    """
    parent = None if is_url(str(target)) else Path(target).parent
    if parent is not None:
        if Path(target).exists() and not (Path(target).is_dir() and not any(Path(target).iterdir())):
            raise UserError("there is something already; choose another name", code="conflict", file=target)
        parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".lcl-converting-", dir=parent) as work:
        return convert_parts(_OneSection(records), target, Path(work) / "parts", shard_bytes, on_progress=on_progress)


def convert_parts(
    source: PartSource[Record | BadItem],
    target: str | Path,
    work: Path,
    shard_bytes: int,
    *,
    processes: int = 1,
    runner: StartRunner | None = None,
    change: RecordTransform = iter,
    settings: Any = None,
    on_progress: Callable[[int], None] = lambda done: None,
    part_items: int = SHARD_ITEMS,
) -> ConvertReport:
    """Write the records of ``source`` to ``target``, a folder, which is replaced, or a URL with nothing below it.

    Args:
        work: folder of what is needed to continue, on the same disk as a target that is a folder.
        shard_bytes: bound on a shard, unless one record alone is larger.
        processes: that convert; their number changes nothing in the output.
        runner: starts what executes the tasks; None: :func:`start_runner`.
        change: sees the records of each part on their way; picklable where there are several processes.
        settings: JSON value of what else decides the output, such as the options of the reader.
        on_progress: called with the number of items read; what it raises interrupts the conversion.

    Raises:
        UserError: what the source raises, ``conflict``, ``no_data`` or ``too_large``: ``work`` is gone then.
            ``part_failed``, or an error of the storage: as after any other exception, ``work`` is there, to continue.
    """
    sections = source.sections()
    key = fingerprint(sections, settings=settings, to=str(target), shard_bytes=shard_bytes, part_items=part_items)
    storage = Storage(str(target)) if is_url(str(target)) else None
    dataset, parts = work / "dataset", work / "parts"
    with CompletionLog(work, key) as log:
        first = next(log.entries(), None)
        if first is not None and first["kind"] == "done":
            if dataset.exists() or Path(target).exists():
                _publish(dataset, target, storage)
                return ConvertReport(**first["report"])
            log.discard()  # the corpus has been removed since
        try:
            if storage is not None and not dataset.exists():
                _check_empty(storage)
            (dataset / "shards").mkdir(parents=True, exist_ok=True)
            converted = _ConvertedParts(parts)
            threads = THREADS if processes == 1 else task_threads(processes)
            url = None if storage is None else storage.url
            make = partial(ConversionTasks, source, work, shard_bytes, url, change, threads)
            options: dict[str, Any] = {"processes": processes, "runner": runner, "part_items": part_items}
            ended = run_parts(sections, make, converted.add, log, on_progress=on_progress, **options)
            _check_shards(converted.shards, dataset, storage)
            header = converted.write_index(dataset)
            if storage is not None:
                for name in (QUARANTINE, *header.files):
                    _upload(storage, name, dataset / name)
            fsync_tree(dataset)
            report = ConvertReport(
                str(target),
                header.records,
                header.images,
                len(header.shards),
                sum(shard.bytes for shard in header.shards),
                header.quarantined,
                header.content_hash(),
                converted.statistics.to_json(),
                ended.resumed,
            )
            log.finish(kind="done", report=asdict(report) | {"resumed": ended.items})
            _publish(dataset, target, storage)
        except UserError as error:
            if error.code not in _CONTINUABLE:
                shutil.rmtree(work, ignore_errors=True)
            raise
    shutil.rmtree(parts, ignore_errors=True)
    return report


def _check_empty(storage: Storage) -> None:
    """Raises: UserError ``conflict``; StoreError."""

    def list_names(files: Any, path: str) -> list[str]:
        files.invalidate_cache()
        names = files.ls(path, detail=False) if files.exists(path) else []
        return [name for name in names if name.rstrip("/") != path.rstrip("/")]  # some stores list the folder itself

    if storage.with_retries("", "read", list_names):
        message = "there is something already; choose another place, or remove what an unfinished conversion has left"
        raise UserError(message, code="conflict", field="to", file=storage.url)


def _check_shards(shards: Sequence[ShardFile], dataset: Path, storage: Storage | None) -> None:
    """Raises: UserError ``conflict`` where one of an earlier attempt has been removed; StoreError."""
    if storage is None:
        found = {f"shards/{path.name}": path.stat().st_size for path in (dataset / "shards").iterdir()}
    else:

        def list_sizes(files: Any, path: str) -> dict[str, int]:
            files.invalidate_cache()
            return {f"shards/{Path(name).name}": each["size"] for name, each in files.find(path, detail=True).items()}

        found = storage.with_retries("shards", "read", list_sizes)
    for shard in shards:
        if found.get(shard.name) != shard.bytes:
            message = f"{shard.name} of an earlier attempt is gone; remove what else it has left, and convert again"
            raise UserError(message, code="conflict", field="to", file=dataset if storage is None else storage.url)


def _publish(dataset: Path, target: str | Path, storage: Storage | None) -> None:
    """Make the corpus appear, unless it has."""
    if storage is not None:
        _upload(storage, HEADER, dataset / HEADER)
    elif dataset.exists():
        shutil.rmtree(target, ignore_errors=True)
        dataset.rename(target)
        fsync_path(Path(target).parent)


class ConversionTasks(SectionTasks[Record | BadItem]):
    """Handler of the tasks of a conversion.

    Args:
        work: folder of the conversion.
        url: where shards are uploaded to, and removed from the folder; None: they stay.
        change: sees the records of a part on their way.
        threads: that decode images.
    """

    def __init__(
        self,
        source: PartSource[Record | BadItem],
        work: Path,
        shard_bytes: int,
        url: str | None = None,
        change: RecordTransform = iter,
        threads: int = THREADS,
    ) -> None:
        super().__init__(source)
        self._work, self._shard_bytes = work, shard_bytes
        self._storage = None if url is None else Storage(url)
        self._change, self._threads = change, threads

    def work(self, name: str, items: Iterator[Record | BadItem], report: Callable[[], None]) -> Json:
        folder = self._work / "parts" / f"{name}.{secrets.token_hex(6)}"
        folder.mkdir(parents=True)
        try:
            writer, statistics = ShardWriter(folder, name, self._shard_bytes), ConversionStatistics()
            with (folder / QUARANTINE).open("w", encoding="utf-8") as file:
                quarantine = QuarantineLog(file.write)
                write_records(self._change(items), writer, quarantine, report, self._threads, statistics.add)
            writer.close()
            for shard in writer.shards:
                path = folder / shard.name
                if self._storage is None:
                    path.replace(self._work / "dataset" / shard.name)
                else:
                    _upload(self._storage, shard.name, path)
                    path.unlink()
            manifest = {
                "groups": [asdict(group) for group in writer.groups],
                "quarantined": dict(quarantine.counts),
                "statistics": statistics.counts(),
            }
            (folder / "part.json").write_text(json.dumps(manifest))
            fsync_tree(folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shards = [asdict(shard) for shard in writer.shards]
        return {"folder": folder.name, "records": len(writer.rows), "shards": shards}


def _upload(storage: Storage, name: str, path: Path) -> None:
    storage.with_retries(name, "written", lambda files, to: files.put_file(str(path), to))


class _ConvertedParts:
    """What the parts, in their order, make together. Memory does not grow with the number of records."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parts: list[tuple[str, int]] = []  # folder, and the number of shards before it
        self._records = 0
        self.groups: dict[RecordGroup, int] = {}
        self.shards: list[ShardFile] = []
        self.quarantined: Counter[str] = Counter()
        self.statistics = ConversionStatistics()

    def add(self, result: Json) -> None:
        """Raises: UserError ``too_large``."""
        self._parts.append((result["folder"], len(self.shards)))
        self._records += result["records"]
        self.shards += (ShardFile(**shard) for shard in result["shards"])
        manifest = self._manifest(result["folder"])
        for group in manifest["groups"]:
            self.groups.setdefault(RecordGroup(**group), len(self.groups))
        for number, most, what in (
            (len(self.shards), MAX_SHARDS, "shards; raise shard_megabytes"),
            (self._records, MAX_RECORDS, "records; make several, and mix them"),
            (len(self.groups), MAX_GROUPS, "kinds of (split, source); name fewer sources"),
        ):
            if number > most:
                raise UserError(f"a sharded corpus has at most {most:,} {what}", code="too_large")
        self.quarantined.update(manifest["quarantined"])
        self.statistics.merge(manifest["statistics"])

    def write_index(self, folder: Path) -> IndexHeader:
        """Write quarantine and index. Raises: UserError ``no_data``."""
        quarantined = dict(sorted(self.quarantined.items()))
        if not self.shards:
            reasons = ", ".join(f"{reason}: {number}" for reason, number in quarantined.items()) or "it is empty"
            raise UserError(f"nothing of the corpus could be converted ({reasons})", code="no_data")
        with (folder / QUARANTINE).open("wb") as joined:
            for name, _ in self._parts:
                with (self._folder / name / QUARANTINE).open("rb") as lines:
                    shutil.copyfileobj(lines, joined)
        return write_index(folder, self._index_parts(), self.groups, self.shards, quarantined)

    def _index_parts(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows and similarities of each part in order, as the index has them."""
        for name, first_shard in self._parts:
            rows = np.load(self._folder / name / "rows.npy")
            groups = self._manifest(name)["groups"]
            codes = np.array([self.groups[RecordGroup(**group)] for group in groups], rows["group"].dtype)
            rows["group"] = codes[rows["group"]] if len(rows) else rows["group"]
            rows["shard"] += first_shard
            yield rows, np.load(self._folder / name / "similarities.npy")

    def _manifest(self, name: str) -> Json:
        value: Json = json.loads((self._folder / name / "part.json").read_text())
        return value
