"""Records of any reader to the sharded form: the same bytes by any number of processes, after any interruption.

    WORK/completed.jsonl    log of the tasks that are complete
    WORK/parts/             output of parts: ``lcl_core.data.shards.part_files``
    WORK/dataset/           the corpus as far as it is there: shards, at the end quarantine and index

WORK is kept when the conversion is interrupted, by whatever; the next one with the same folder continues.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from lcl_core.common.errors import UserError
from lcl_core.common.files import fsync_path, fsync_tree
from lcl_core.common.paths import is_url
from lcl_core.common.storage import Storage
from lcl_core.data.records import BadItem, Record
from lcl_core.data.shards.format import HEADER, QUARANTINE
from lcl_core.data.shards.index import ShardFile, write_index
from lcl_core.data.shards.part_files import THREADS, ConversionTasks, RecordTransform
from lcl_core.data.shards.part_schedule import PartSchedule
from lcl_core.data.shards.writer import UploadLock
from lcl_core.parts.completion_log import CompletionLog
from lcl_core.parts.execute import StartRunner, execute, start_runner, task_threads
from lcl_core.parts.plan import PART_ITEMS, PartSource, Section, fingerprint

DEFAULT_SHARD_BYTES = 256 << 20
# codes of what a retry may mend
_CONTINUABLE = frozenset(("part_failed", "file_unreadable", "store_unreachable", "store_forbidden"))


@dataclass(frozen=True, slots=True)
class ConvertReport:
    """Result of a conversion.

    Attributes:
        images: images of all records, those without bytes too.
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

    Raises: UserError ``target_exists``, and as :func:`convert_parts`; whatever is raised, nothing is left there.
    """
    parent = None if is_url(str(target)) else Path(target).parent
    if parent is not None:
        if Path(target).exists() and not (Path(target).is_dir() and not any(Path(target).iterdir())):
            raise UserError("there is something already; choose another name", code="target_exists", file=target)
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
    part_items: int = PART_ITEMS,
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
        UserError: what the source raises, ``target_exists``, ``conversion_running``, ``nothing_converted`` or
            ``corpus_too_large``: nothing is left then. ``part_failed``, or an error of the storage: as after any other
            exception, ``work`` is there, to continue.
    """
    sections = source.sections()
    key = fingerprint(sections, settings=settings, to=str(target), shard_bytes=shard_bytes, part_items=part_items)
    output = _Output(target, work / "dataset", owner)
    with CompletionLog(work, key) as log:
        if (done := _finished(log, output)) is not None:
            return done
        try:
            schedule = PartSchedule(sections, work / "parts", shard_bytes, part_items, processes)
            if not _restore(schedule, log, output):
                log.discard()
                schedule = PartSchedule(sections, work / "parts", shard_bytes, part_items, processes)
            output.open(schedule.shards)
            resumed = schedule.items
            threads = THREADS if processes == 1 else task_threads(processes)
            folders = (work / "parts", work / "dataset")
            make = partial(ConversionTasks, source, *folders, url=output.url, change=change, threads=threads)
            with (runner or start_runner(processes))(make) as running:
                execute(schedule, running, log, on_progress)
            report = output.write_rest(schedule)
            on_progress(schedule.items)
            statistics = schedule.statistics.to_json()
            log.finish(kind="done", report=asdict(report), statistics=statistics, items=schedule.items)
            output.publish()
        except BaseException as error:
            if not keeps_work or (isinstance(error, UserError) and error.code not in _CONTINUABLE):
                output.roll_back()
                shutil.rmtree(work, ignore_errors=True)
            raise
    shutil.rmtree(work / "parts", ignore_errors=True)
    return PartsReport(report, statistics, resumed, running.deaths)


def _finished(log: CompletionLog, output: _Output) -> PartsReport | None:
    """The report of a conversion that an earlier attempt has finished, but for the last rename perhaps."""
    entry = next((entry for entry in log.entries() if entry.get("kind") == "done"), None)
    if entry is None or not output.is_whole:
        return None
    output.publish()
    return PartsReport(ConvertReport(**entry["report"]), entry["statistics"], entry["items"], 0)


def _restore(schedule: PartSchedule, log: CompletionLog, output: _Output) -> bool:
    """Continue with what is complete. False: some of it is not there any more. Raises: StoreError."""
    try:
        schedule.restore(log)
        return output.holds(schedule.shards)
    except (OSError, ValueError, KeyError, TypeError):
        return False


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

    def holds(self, shards: Sequence[ShardFile]) -> bool:
        """Whether these shards are there. Raises: StoreError."""
        if self._lock is not None:
            return not shards or self._lock.holds([shard.name for shard in shards])
        return all((self._folder / shard.name).stat().st_size == shard.bytes for shard in shards)

    def open(self, shards: Sequence[ShardFile]) -> None:
        """Raises: UserError ``target_exists`` or ``conversion_running``."""
        (self._folder / "shards").mkdir(parents=True, exist_ok=True)
        self._remove_partial(shards)
        if self._lock is not None:
            self._lock.acquire({shard.name for shard in shards})

    def write_rest(self, schedule: PartSchedule) -> ConvertReport:
        """Write quarantine and index to disk. Raises: UserError ``nothing_converted``."""
        quarantined = dict(sorted(schedule.quarantined.items()))
        if not schedule.shards:
            reasons = ", ".join(f"{reason}: {number}" for reason, number in quarantined.items()) or "it is empty"
            raise UserError(f"nothing of the corpus could be converted ({reasons})", code="nothing_converted")
        self._remove_partial(schedule.shards)
        with (self._folder / QUARANTINE).open("wb") as joined:
            for part in schedule.folders():
                with (part / QUARANTINE).open("rb") as lines:
                    shutil.copyfileobj(lines, joined)
        header = write_index(self._folder, schedule.index_parts(), schedule.groups, schedule.shards, quarantined)
        if self._lock is not None:
            self._upload_index(self._lock.storage)
        fsync_tree(self._folder)
        size = sum(shard.bytes for shard in header.shards)
        return ConvertReport(
            str(self._target),
            header.records,
            header.images,
            len(header.shards),
            size,
            header.quarantined,
            header.content_hash(),
        )

    def _upload_index(self, storage: Storage) -> None:
        """All files but the header, which comes last."""
        for path in sorted(path for path in self._folder.rglob("*") if path.is_file()):
            name = path.relative_to(self._folder).as_posix()
            if name != HEADER:
                self._upload(storage, name, path)
                path.unlink()

    @staticmethod
    def _upload(storage: Storage, name: str, path: Path) -> None:
        storage.with_retries(name, "written", lambda files, to: files.put_file(str(path), to))

    def _remove_partial(self, shards: Sequence[ShardFile]) -> None:
        """Remove what a process wrote that was killed, in this attempt or in an earlier one."""
        names = {shard.name for shard in shards}
        for path in (self._folder / "shards").iterdir():
            if f"shards/{path.name}" not in names:
                path.unlink()

    def publish(self) -> None:
        """Make the corpus appear, unless it has. Raises: UserError ``target_exists``."""
        if self._lock is not None:
            self._lock.commit(self._folder)
        elif self._folder.exists():
            shutil.rmtree(self._target, ignore_errors=True)
            self._folder.rename(self._target)
            fsync_path(Path(self._target).parent)

    def roll_back(self) -> None:
        if self._lock is not None:
            self._lock.roll_back()
