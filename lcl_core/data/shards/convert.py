"""Records of any reader to the sharded form: the same bytes by any number of processes, after any interruption.

    WORK/completed.jsonl              log of the parts that are complete
    WORK/parts/PART.TOKEN/            of a part: rows and similarities of its records, groups, statistics, quarantine
    WORK/dataset/                     the corpus as far as it is there: shards, at the end quarantine and index

A part of the input is written to shards of its own. WORK is kept when the conversion is interrupted, by whatever; the
next one with the same folder continues. TOKEN belongs to one attempt at a part. At a URL, shards are uploaded as soon
as each is complete; the index comes last, and only if there is none: from then on there is a corpus.
"""

from __future__ import annotations

import json
import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from lcl_core.data.shards.format import (
    HEADER,
    MAX_GROUPS,
    MAX_RECORDS,
    MAX_SHARDS,
    QUARANTINE,
    is_shard_corpus_file,
)
from lcl_core.data.shards.index import RecordGroup, ShardFile, write_index
from lcl_core.data.shards.statistics import ConversionStatistics
from lcl_core.data.shards.writer import THREADS, QuarantineLog, ShardWriter, write_records
from lcl_core.part_runners import Json, task_threads
from lcl_core.parts import CompletionLog, PartSource, Section, SectionTasks, StartRunner, fingerprint, run_parts

DEFAULT_SHARD_BYTES = 256 << 20
SHARD_ITEMS = 4096  # of a part, whose records are shards of their own
LOCK_FILE = ".converting"
_DELETE_THREADS = 8
# codes of what a retry may mend
_CONTINUABLE = frozenset(("part_failed", "file_unreadable", "store_unreachable", "store_forbidden"))
RecordTransform = Callable[[Iterator[Record | BadItem]], Iterator[Record | BadItem]]


@dataclass(frozen=True, slots=True)
class ConvertReport:
    """Result of a conversion.

    Attributes:
        pictures: images of all records, those without bytes too.
        quarantined: items and images left out, by reason; ``quarantine.jsonl`` names each.
    """

    path: str
    records: int
    pictures: int
    shards: int
    bytes: int
    quarantined: dict[str, int]
    content_hash: str


@dataclass(frozen=True)
class PartsReport:
    """Result of a conversion in parts.

    Attributes:
        report: of the corpus.
        statistics: of its records.
        resumed: items of parts that earlier attempts had completed.
        deaths: processes that ended before their task did.
    """

    report: ConvertReport
    statistics: dict[str, Any]
    resumed: int
    deaths: int


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
    owner: str = "",
) -> ConvertReport:
    """Write ``records`` to ``target``: a folder that appears only when all is done, or a URL whose index comes last.

    Raises: UserError ``conflict``, and as :func:`convert_parts`; whatever is raised, nothing is left there.
    """
    parent = None if is_url(str(target)) else Path(target).parent
    if parent is not None:
        if Path(target).exists() and not (Path(target).is_dir() and not any(Path(target).iterdir())):
            raise UserError("there is something already; choose another name", code="conflict", file=target)
        parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".lcl-converting-", dir=parent) as work:
        source = _OneSection(records)
        options: dict[str, Any] = {"owner": owner, "on_progress": on_progress, "keeps_work": False}
        return convert_parts(source, target, Path(work) / "parts", shard_bytes, **options).report


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
    owner: str = "",
    on_progress: Callable[[int], None] = lambda done: None,
    part_items: int = SHARD_ITEMS,
    keeps_work: bool = True,
) -> PartsReport:
    """Write the records of ``source`` to ``target``, a folder, which is replaced, or a URL.

    Args:
        work: folder of what is needed to continue, on the same disk as a target that is a folder.
        shard_bytes: bound on a shard, unless one record alone is larger.
        processes: that convert; their number changes nothing in the output.
        runner: starts what executes the tasks; None: :func:`start_runner`.
        change: sees the records of each part on their way; picklable where there are several processes.
        settings: JSON value of what else decides the output, such as the options of the reader.
        owner: who converts; files at a URL of an earlier attempt by the same owner are used, or replaced.
        on_progress: called with the number of items read; what it raises interrupts the conversion.
        keeps_work: whether what an interruption leaves at a URL is to be continued.

    Raises:
        UserError: what the source raises, ``conflict``, ``no_data`` or
            ``too_large``: nothing is left then. ``part_failed``, or an error of the storage: as after any other
            exception, ``work`` is there, to continue.
    """
    sections = source.sections()
    key = fingerprint(sections, settings=settings, to=str(target), shard_bytes=shard_bytes, part_items=part_items)
    output = _Output(target, work / "dataset", owner)
    with CompletionLog(work, key) as log:
        done = next((entry for entry in log.entries() if entry.get("kind") == "done"), None)
        if done is not None and output.is_whole:  # but for the last rename perhaps
            output.publish()
            return PartsReport(ConvertReport(**done["report"]), done["statistics"], done["items"], 0)
        try:
            if done is not None or not output.holds(_completed(log), work / "parts"):
                log.discard()
            output.open(work / "parts", _completed(log))
            converted = _ConvertedParts(work / "parts")
            threads = THREADS if processes == 1 else task_threads(processes)
            make = partial(ConversionTasks, source, work, shard_bytes, url=output.url, change=change, threads=threads)
            options: dict[str, Any] = {"processes": processes, "runner": runner, "part_items": part_items}
            ended = run_parts(sections, make, converted.add, log, on_progress=on_progress, **options)
            report = output.write_rest(converted)
            statistics = converted.statistics.to_json()
            log.finish(kind="done", report=asdict(report), statistics=statistics, items=ended.items)
            output.publish()
        except BaseException as error:
            if not keeps_work or (isinstance(error, UserError) and error.code not in _CONTINUABLE):
                output.roll_back()
                shutil.rmtree(work, ignore_errors=True)
            raise
    shutil.rmtree(work / "parts", ignore_errors=True)
    return PartsReport(report, statistics, ended.resumed, ended.deaths)


def _completed(log: CompletionLog) -> list[Json]:
    """Results of the parts that are complete."""
    return [entry["result"] for entry in log.entries() if entry["kind"] == "part"]


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
        if len(self.shards) > MAX_SHARDS:
            message = f"a sharded corpus has at most {MAX_SHARDS:,} shards; raise shard_megabytes"
            raise UserError(message, code="too_large", field="shard_megabytes")
        if self._records > MAX_RECORDS:
            message = f"a sharded corpus holds at most {MAX_RECORDS:,} records; make several, and mix them"
            raise UserError(message, code="too_large")
        if len(self.groups) > MAX_GROUPS:
            message = f"more than {MAX_GROUPS:,} kinds of (split, source); name fewer sources"
            raise UserError(message, code="too_large")
        self.quarantined.update(manifest["quarantined"])
        self.statistics.merge(manifest["statistics"])

    def index_parts(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows and similarities of each part in order, as the index has them."""
        for name, first_shard in self._parts:
            rows = np.load(self._folder / name / "rows.npy")
            groups = self._manifest(name)["groups"]
            codes = np.array([self.groups[RecordGroup(**group)] for group in groups], rows["group"].dtype)
            rows["group"] = codes[rows["group"]] if len(rows) else rows["group"]
            rows["shard"] += first_shard
            yield rows, np.load(self._folder / name / "similarities.npy")

    def join_quarantine(self, target: Path) -> None:
        with target.open("wb") as joined:
            for name, _ in self._parts:
                with (self._folder / name / QUARANTINE).open("rb") as lines:
                    shutil.copyfileobj(lines, joined)

    def _manifest(self, name: str) -> Json:
        value: Json = json.loads((self._folder / name / "part.json").read_text())
        return value


class _Output:
    """The corpus while it is made, in a folder or partly at a URL."""

    def __init__(self, target: str | Path, folder: Path, owner: str) -> None:
        self._target, self._folder = target, folder
        self._lock = UploadLock(Storage(str(target)), owner) if is_url(str(target)) else None

    @property
    def url(self) -> str | None:
        return None if self._lock is None else self._lock.storage.url

    @property
    def is_whole(self) -> bool:
        """Whether the index is there, in the folder or where it goes."""
        places = (self._folder,) if self._lock is not None else (self._folder, Path(self._target))
        return any((place / HEADER).is_file() for place in places)

    def holds(self, results: Sequence[Json], parts: Path) -> bool:
        """Whether what these parts have made is there. Raises: StoreError."""
        files = ("part.json", "rows.npy", "similarities.npy", QUARANTINE)
        if not all((parts / result["folder"] / file).is_file() for result in results for file in files):
            return False
        shards = {shard["name"]: shard["bytes"] for result in results for shard in result["shards"]}
        if self._lock is not None:
            return not shards or self._lock.holds(shards)
        found = {f"shards/{path.name}": path.stat().st_size for path in (self._folder / "shards").glob("*")}
        return shards.items() <= found.items()

    def open(self, parts: Path, results: Sequence[Json]) -> None:
        """Remove what is of no part that is complete. Raises: UserError ``conflict``."""
        parts.mkdir(exist_ok=True)
        known = {result["folder"] for result in results}
        for path in [path for path in parts.iterdir() if path.name not in known]:
            shutil.rmtree(path, ignore_errors=True)
        shards = {shard["name"] for result in results for shard in result["shards"]}
        (self._folder / "shards").mkdir(parents=True, exist_ok=True)
        self._remove_shards_but(shards)
        if self._lock is not None:
            self._lock.acquire(shards)

    def write_rest(self, parts: _ConvertedParts) -> ConvertReport:
        """Write quarantine and index to disk. Raises: UserError ``no_data``."""
        quarantined = dict(sorted(parts.quarantined.items()))
        if not parts.shards:
            reasons = ", ".join(f"{reason}: {number}" for reason, number in quarantined.items()) or "it is empty"
            raise UserError(f"nothing of the corpus could be converted ({reasons})", code="no_data")
        self._remove_shards_but({shard.name for shard in parts.shards})
        parts.join_quarantine(self._folder / QUARANTINE)
        header = write_index(self._folder, parts.index_parts(), parts.groups, parts.shards, quarantined)
        if self._lock is not None:
            for path in sorted(path for path in self._folder.rglob("*") if path.is_file()):
                name = path.relative_to(self._folder).as_posix()
                if name != HEADER:
                    _upload(self._lock.storage, name, path)
                    path.unlink()
        fsync_tree(self._folder)
        return ConvertReport(
            str(self._target),
            header.records,
            header.images,
            len(header.shards),
            sum(shard.bytes for shard in header.shards),
            header.quarantined,
            header.content_hash(),
        )

    def publish(self) -> None:
        """Make the corpus appear, unless it has. Raises: UserError ``conflict``."""
        if self._lock is not None:
            self._lock.commit(self._folder)
        elif self._folder.exists():
            shutil.rmtree(self._target, ignore_errors=True)
            self._folder.rename(self._target)
            fsync_path(Path(self._target).parent)

    def roll_back(self) -> None:
        if self._lock is not None:
            self._lock.roll_back()

    def _remove_shards_but(self, names: set[str]) -> None:
        """Also those of a part that another process has repeated in this attempt."""
        for path in (self._folder / "shards").iterdir():
            if f"shards/{path.name}" not in names:
                path.unlink()


class UploadLock:
    """The right to write below a URL: a lock file that only one process can create.

    Args:
        owner: files of an earlier attempt by the same owner are replaced; empty: of none.
    """

    def __init__(self, storage: Storage, owner: str) -> None:
        self.storage, self._owner = storage, owner
        self._mark = json.dumps({"owner": owner, "token": secrets.token_hex(16)}).encode()

    def acquire(self, keep: Collection[str] = ()) -> None:
        """Take the lock, also over from an earlier attempt, whose files are removed but for those named in ``keep``.

        Raises: UserError ``conflict``, or what reading and writing there raises.
        """
        names = self._list()
        if LOCK_FILE in names and self._owner and self._holder().get("owner") == self._owner:
            self.storage.with_retries(LOCK_FILE, "written", lambda files, path: files.pipe_file(path, self._mark))
            self._remove(self._written() - set(keep))
            return
        if names or not _create_file(self.storage, LOCK_FILE, self._mark):
            raise self._refusal(names or {LOCK_FILE})
        if others := self._list() - {LOCK_FILE}:  # of a conversion whose lock file came and went meanwhile
            self._remove({LOCK_FILE})
            raise self._refusal(others)

    def holds(self, names: Collection[str]) -> bool:
        """Whether an earlier attempt of the same owner holds the lock and all these files are there.

        Raises: StoreError.
        """
        return self._holder().get("owner") == self._owner and set(names) <= self._list(deep=True)

    def commit(self, folder: Path) -> None:
        """Write the index. Raises: UserError ``conflict`` where another conversion did meanwhile."""
        if not _create_file(self.storage, HEADER, (folder / HEADER).read_bytes()):
            raise self._refusal({HEADER})
        self._remove({LOCK_FILE})

    def roll_back(self) -> None:
        """Remove the uploaded files, if the lock is still held. Files that cannot be removed stay without an index."""
        try:
            if self._holder() == json.loads(self._mark):
                self._remove(self._written())
                self._remove({LOCK_FILE})
        except UserError:
            return

    def _holder(self) -> dict[str, Any]:
        """Content of the lock file; {} where it is missing or foreign. Raises: StoreError."""
        try:
            content = json.loads(self.storage.read(LOCK_FILE))
        except ValueError:
            return {}
        except UserError as error:
            if error.code != "file_missing":
                raise
            return {}
        return content if isinstance(content, dict) else {}

    def _written(self) -> set[str]:
        """Files of conversions. Others may lie below the URL, such as corpora in folders there: these stay."""
        return {name for name in self._list(deep=True) if is_shard_corpus_file(name)}

    def _list(self, deep: bool = False) -> set[str]:
        """Names at the URL, relative to it; ``deep``: every file."""

        def list_files(files: Any, path: str) -> set[str]:
            files.invalidate_cache()
            try:
                names = files.find(path) if deep else files.ls(path, detail=False)
            except FileNotFoundError:
                return set()
            return {name[len(path) :].strip("/") for name in names} - {""}

        return self.storage.with_retries("", "read", list_files)

    def _remove(self, names: set[str]) -> None:
        def remove(name: str) -> None:
            try:
                self.storage.with_retries(name, "written", lambda files, path: files.rm_file(path))
            except UserError as error:
                if error.code != "file_missing":
                    raise

        with ThreadPoolExecutor(_DELETE_THREADS) as pool:
            list(pool.map(remove, sorted(names, key=lambda name: name != HEADER)))

    def _refusal(self, names: set[str]) -> UserError:
        if LOCK_FILE in names and HEADER not in names:
            code = "conflict"
            message = (
                "another conversion to this place is running, or was killed; wait for it, choose another place, or "
                "remove what lies there"
            )
        else:
            code, message = "conflict", "there is something already; choose another place"
        return UserError(message, code=code, field="to", file=self.storage.url)


def _create_file(storage: Storage, name: str, data: bytes) -> bool:
    """Whether this process created the file, also in an attempt whose response was lost."""
    try:
        storage.with_retries(name, "written", lambda files, path: files.pipe_file(path, data, mode="create"))
    except FileExistsError:
        return storage.read(name) == data
    return True
