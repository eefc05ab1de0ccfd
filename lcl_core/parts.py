"""Work over an input cut into parts, which resumes after an interruption.

A section is what a source can start to read by itself, such as one file of a corpus; a part is a range of a section's
items, the same ones in every attempt. The parts of an input, one after the other, are its items in order, so outputs
joined in the order of the parts do not depend on how many processes made them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

from lcl_core.common.errors import UserError, import_optional
from lcl_core.common.files import write_atomically
from lcl_core.part_runners import (
    RAY_ADDRESS,
    Handler,
    InProcessRunner,
    Json,
    PartTask,
    ProcessPoolRunner,
    Report,
    StartRunner,
)

PART_ITEMS = 1024  # of one part: what a killed process loses, a few seconds to a minute of decoding
AHEAD = 4  # parts of each process that are in progress, or complete before one that precedes them is
LOG_FILE = "completed.jsonl"
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Section:
    """A range of an input that can be read by itself.

    Attributes:
        key: names it for the source.
        stamp: changes when its content does, as far as that is cheap to know, such as size and time of a file.
    """

    key: str
    stamp: str = ""


class PartSource(Protocol[T_co]):
    """An input that can be cut into parts; it can be sent to another process."""

    def sections(self) -> Sequence[Section]:
        """In order, the same in every process."""

    def read_section(self, key: str, start: int = 0) -> Iterator[T_co]:
        """The items of a section from number ``start`` on."""

    def count_section(self, key: str) -> int:
        """How many items it has."""


def fingerprint(sections: Sequence[Section], **settings: Any) -> str:
    """SHA-256 of an input and of the settings that decide what its parts are and what becomes of them."""
    total = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for section in sections:
        total.update(json.dumps([section.key, section.stamp]).encode() + b"\n")
    return total.hexdigest()


class SectionCursor(Generic[T]):
    """Reads parts of a source. A part that follows the last one read continues its walk.

    A process that gets the parts of a section in ascending order therefore walks through the section once, also where
    the source cannot seek.

    Attributes:
        items: how many items the last part had.
        ended: whether its section has no further item.
    """

    def __init__(self, source: PartSource[T]) -> None:
        self._source = source
        self._key: str | None = None
        self._at = 0
        self._walk: Iterator[T] = iter(())
        self._next: list[T] = []  # read to see whether there is one
        self.items, self.ended = 0, False

    def read(self, key: str, start: int, limit: int) -> Iterator[T]:
        """At most ``limit`` items of a section from number ``start`` on."""
        if self._key != key or self._at > start:
            self._walk, self._next, self._at = self._source.read_section(key, start), [], start
        self._key = None  # until the part is complete: the position is not known if anything is raised
        self.items, self.ended = 0, False
        items, skipped = chain(self._next, self._walk), start - self._at
        for item in islice(items, skipped, skipped + limit):
            self.items += 1
            yield item
        self._next = list(islice(items, 1))
        self.ended = not self._next
        self._key, self._at = key, start + self.items


class SectionTasks(ABC, Generic[T]):
    """Handler of the tasks of a :class:`SectionSchedule`."""

    def __init__(self, source: PartSource[T]) -> None:
        self._source, self._cursor = source, SectionCursor(source)

    def __call__(self, arguments: Json, report: Report) -> Json:
        if arguments["kind"] == "count":
            return {"items": self._source.count_section(arguments["section"])}
        items = self._cursor.read(arguments["section"], arguments["start"], arguments["limit"])
        # items of the input: what becomes of them may be more or fewer
        result = self.work(arguments["name"], items, lambda: report(self._cursor.items))
        return {**result, "items": self._cursor.items, "ended": self._cursor.ended}

    @abstractmethod
    def work(self, name: str, items: Iterator[T], report: Callable[[], None]) -> Json:
        """The result of a part; all its items are read. ``report``: to be called after each. Raises: UserError."""


Part = tuple[int, int]  # number of the section, and of the part's first item in it


class SectionSchedule:
    """The parts of an input in order, a bounded number of them beyond those that are merged.

    One process alone gets the parts of a section as it finds them. For several, the items of a section are counted
    first, so that its parts are known.

    Args:
        merge: called with the result of each part in order, whatever the order in which they were complete. A result
            has at least ``items``, and ``ended``: whether its section has no further item.
        part_items: of a part.
    """

    def __init__(
        self,
        sections: Sequence[Section],
        merge: Callable[[Json], None],
        part_items: int = PART_ITEMS,
        processes: int = 1,
    ) -> None:
        self._sections, self._merge = sections, merge
        self._part_items, self._processes = part_items, processes
        self._results: dict[Part, Json] = {}  # complete, and not merged yet
        self._lengths: dict[int, int] = {}  # items by section, where they are known
        self._counting: set[int] = set()
        self._started: set[Part] = set()
        self._last: Part | None = None  # started or complete, the last one in order
        self._merged: Part = (0, 0)  # the next to be merged
        self.items = 0  # of parts that are complete

    @property
    def finished(self) -> bool:
        return self._merged[0] >= len(self._sections)

    def next_task(self) -> PartTask | None:
        part = (0, 0) if self._last is None else self._after(self._last)
        while part is not None and (part < self._merged or part in self._results):
            self._last = part
            part = self._after(part)
        if part is None:
            return self._count_task() if self._processes > 1 else None
        # an attempt with more processes may have left more results than are allowed ahead: the missing part is started
        room = len(self._results) + len(self._started) < AHEAD * self._processes or not self._started
        if part[0] >= len(self._sections) or not room:
            return None
        self._last = part
        self._started.add(part)
        section, start = part
        key, end = self._sections[section].key, start + self._part_items
        arguments = {
            "kind": "part", "number": section, "section": key, "start": start, "limit": self._part_items,
            "name": f"{section:05d}-{start // self._part_items:05d}",
        }  # fmt: skip
        return PartTask(arguments, f"items {start + 1:,} to {end:,} of {key or 'the corpus'}")

    def complete(self, arguments: Json, result: Json) -> None:
        """Raises: UserError ``conflict``; what ``merge`` raises."""
        section = arguments["number"]
        if arguments["kind"] == "count":
            self._counting.discard(section)
            self._lengths[section] = result["items"]
            return
        part = (section, arguments["start"])
        end, length = part[1] + result["items"], self._lengths.get(section)
        if length is not None and not result["ended"] and end >= length:
            # no part of the further items would be started, and the sections after it would wait for it for ever
            message = (
                f"{length:,} items were counted, and now there are more: something writes to it; start again when it "
                "does not change any more"
            )
            raise UserError(message, code="conflict", file=self._sections[section].key or None)
        self._started.discard(part)
        self._results[part] = result
        self.items += result["items"]
        if result["ended"]:
            self._lengths[section] = end
        while (found := self._results.pop(self._merged, None)) is not None:
            section, start = self._merged
            self._merged = (section + 1, 0) if found["ended"] else (section, start + found["items"])
            self._merge(found)

    def _after(self, part: Part) -> Part | None:
        """The part that follows; None: it is not known yet."""
        section, end = part[0], part[1] + self._part_items
        if part < self._merged:
            return self._merged
        if part in self._results:
            return (section + 1, 0) if self._results[part]["ended"] else (section, end)
        if section not in self._lengths:
            return None
        return (section, end) if end < self._lengths[section] else (section + 1, 0)

    def _count_task(self) -> PartTask | None:
        """Of the first section whose items must be counted."""
        first = 0 if self._last is None else self._last[0]
        for number in range(first, min(first + 1 + self._processes, len(self._sections))):
            if number not in self._lengths and number not in self._counting:
                self._counting.add(number)
                key = self._sections[number].key
                arguments = {"kind": "count", "number": number, "section": key}
                return PartTask(arguments, f"the number of items of {key or 'the corpus'}")
        return None


class CompletionLog:
    """The tasks of a run that are complete, one JSON object a line, in a file that is only appended to.

    The first line names the input and the settings. A log of others is removed with all that lies beside it: nothing
    of what it lists can be used. The last line may be torn, by a process that was killed while it wrote; it is cut
    off, and its task is done again.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder, self._path, self._fingerprint = folder, folder / LOG_FILE, fingerprint
        size = _usable_size(self._path, fingerprint)
        if size == 0:
            self._begin()
        else:
            self._file = self._path.open("ab", buffering=0)
            self._file.truncate(size)

    def discard(self) -> None:
        """Remove the log, and all that lies beside it, and begin anew."""
        self._file.close()
        self._begin()

    def entries(self) -> Iterator[Json]:
        """What was appended, in this attempt and in earlier ones."""
        with self._path.open("rb") as file:
            next(file)
            for line in file:
                yield json.loads(line)

    def finish(self, **entry: Any) -> None:
        """Replace all entries by one that tells how the run ended."""
        lines = [{"fingerprint": self._fingerprint}, entry]
        write_atomically(self._path, "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))

    def append(self, **entry: Any) -> None:
        """Add an entry. When this returns, it is on the disk; so must be what it says."""
        # one write each: another process's view ends between lines, or in the last one
        self._file.write(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _begin(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        self._file = self._path.open("ab", buffering=0)
        self.append(fingerprint=self._fingerprint)


def _usable_size(path: Path, fingerprint: str) -> int:
    """Bytes of the log's whole lines; 0 where it is not there, or of another input or other settings."""
    size = 0
    if not path.exists():
        return 0
    with path.open("rb") as file:
        for line in file:
            try:
                entry = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:  # blocks of the file that the disk never got
                break
            if entry is None or (size == 0 and entry != {"fingerprint": fingerprint}):
                break
            size += len(line)
    return size


def start_runner(processes: int, gpus: float = 0.0) -> StartRunner:
    """The runner of a number of processes; 1: the calling process alone.

    Several are processes of this machine, or of a Ray cluster where the executor has named one in the environment.

    Args:
        gpus: that a task uses where there are some; processes of this machine share those of the run.
    """
    if processes == 1:
        return InProcessRunner
    if address := os.environ.get(RAY_ADDRESS):
        import_optional("ray", "a Ray cluster", extra="ray")
        from lcl_core.parts_ray import start_ray_runner

        return partial(start_ray_runner, processes, address, gpus)
    return partial(ProcessPoolRunner, processes)


@dataclass(frozen=True, slots=True)
class PartsDone:
    """Work over the sections of an input. ``resumed``: items of earlier attempts."""

    items: int
    resumed: int


def run_parts(
    sections: Sequence[Section],
    make: Callable[[], Handler],
    merge: Callable[[Json], None],
    log: CompletionLog,
    *,
    processes: int = 1,
    runner: StartRunner | None = None,
    part_items: int = PART_ITEMS,
    on_progress: Callable[[int], None] = lambda items: None,
) -> PartsDone:
    """Execute the parts of an input that the log does not have, and merge the results of all in order.

    Args:
        make: makes the handler, a :class:`SectionTasks`; picklable for several processes.
        runner: starts what executes the tasks; None: :func:`start_runner`.
        on_progress: called with the number of items that are done, which never falls; what it raises ends the work.
    """
    schedule = SectionSchedule(sections, merge, part_items, processes)
    for entry in log.entries():
        schedule.complete(entry["arguments"], entry["result"])
    resumed = done = schedule.items

    def report(items: int) -> None:
        nonlocal done
        # a task that has just ended is no longer in progress and not yet in the schedule; one that died begins anew
        done = max(done, schedule.items + items)
        on_progress(done)

    with (runner or start_runner(processes))(make) as running:
        while not schedule.finished:
            while running.idle and (task := schedule.next_task()) is not None:
                running.submit(task)
            for task, result in running.wait(report):
                arguments: Json = {
                    name: task.arguments[name] for name in ("kind", "number", "start") if name in task.arguments
                }
                log.append(kind=arguments["kind"], arguments=arguments, result=result)
                schedule.complete(arguments, result)
    report(0)
    return PartsDone(schedule.items, resumed)
