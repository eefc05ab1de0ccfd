"""Conversion in parts: the files of :func:`convert`, byte for byte, by any number of processes, after any interruption.

    WORK/completed.jsonl    log of the tasks that are complete
    WORK/parts/             output of parts: ``lcl_core.data.shards.part_files``
    WORK/dataset/           the corpus as far as it is there: shards, at the end quarantine and index

WORK is kept when the conversion is interrupted, by whatever; the next one with the same folder continues.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lcl_core.common.errors import UserError
from lcl_core.common.files import fsync_path, fsync_tree
from lcl_core.common.paths import is_url
from lcl_core.common.storage import Storage
from lcl_core.data.records import BadItem, Record
from lcl_core.data.shards.convert import THREADS, ConvertReport, make_report, nothing_converted_error
from lcl_core.data.shards.format import HEADER, QUARANTINE
from lcl_core.data.shards.index import ShardFile, write_index
from lcl_core.data.shards.part_files import ConversionTasks, RecordTransform
from lcl_core.data.shards.part_schedule import PartSchedule
from lcl_core.data.shards.writer import Uploader, UploadLock
from lcl_core.parts.completion_log import CompletionLog
from lcl_core.parts.execute import StartRunner, execute, start_runner, task_threads
from lcl_core.parts.plan import PART_ITEMS, PartSource, fingerprint

# codes of what a retry may mend
_CONTINUABLE = frozenset(("part_failed", "file_unreadable", "store_unreachable", "store_forbidden"))


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
) -> PartsReport:
    """Write the records of ``source`` to ``target``, a folder, which is replaced, or a URL.

    Args:
        work: folder of what is needed to continue, on the same disk as a target that is a folder.
        processes: that convert; their number changes nothing in the output.
        runner: starts what executes the tasks; None: :func:`start_runner`.
        change: sees the records of each part on their way; picklable where there are several processes.
        settings: JSON value of what else decides the output, such as the options of the reader.
        owner: who converts; files at a URL of an earlier attempt by the same owner are used, or replaced.
        on_progress: called with the number of items read; what it raises interrupts the conversion.

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
        except UserError as error:
            if error.code not in _CONTINUABLE:
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
        self._removed_leftover = False

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
            self._removed_leftover = self._lock.acquire({shard.name for shard in shards})

    def write_rest(self, schedule: PartSchedule) -> ConvertReport:
        """Write quarantine and index to disk. Raises: UserError ``nothing_converted``."""
        quarantined = dict(sorted(schedule.quarantined.items()))
        if not schedule.shards:
            raise nothing_converted_error(quarantined)
        self._remove_partial(schedule.shards)
        with (self._folder / QUARANTINE).open("wb") as joined:
            for part in schedule.folders():
                with (part / QUARANTINE).open("rb") as lines:
                    shutil.copyfileobj(lines, joined)
        header = write_index(self._folder, schedule.index_parts(), schedule.groups, schedule.shards, quarantined)
        if self._lock is not None:
            with Uploader(self._lock.storage, self._folder) as uploader:
                uploader.send_rest()
        fsync_tree(self._folder)
        return make_report(self._target, header, self._removed_leftover)

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
