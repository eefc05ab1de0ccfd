"""Which task of a conversion in parts comes next, and what follows from those that are complete.

Parts are started in order, a bounded number of them beyond those that are merged. A part is merged when all parts
before it are: its records get their numbers and their shards. A shard whose records are all known is joined, and then
the tars of the parts that it used up are removed. Memory does not grow with the number of records.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lcl_core.common.errors import UserError
from lcl_core.data.shards.format import MAX_GROUPS, MAX_RECORDS, ROW, SIMILARITY
from lcl_core.data.shards.index import RecordGroup, ShardFile
from lcl_core.data.shards.part_files import MANIFEST, PART_TAR, ShardLayout, ShardPlan, read_rows
from lcl_core.data.shards.statistics import ConversionStatistics
from lcl_core.data.shards.writer import ROW_FILE, SIMILARITY_FILE
from lcl_core.parts.completion_log import CompletionLog
from lcl_core.parts.plan import Part, Section
from lcl_core.parts.runner import Json, PartTask


@dataclass(frozen=True, slots=True)
class _PartResult:
    """Of a part that is complete."""

    folder: str
    items: int
    records: int
    ended: bool


class PartSchedule:
    """The tasks of one conversion.

    Args:
        sections: of the corpus.
        parts: folder of the parts.
        shard_bytes: bound on a shard.
        part_items: of a part.
        processes: that execute tasks. One alone gets the parts of a section as it finds them; for several, the items of
            a section are counted first, so that its parts are known.
    """

    def __init__(
        self, sections: Sequence[Section], parts: Path, shard_bytes: int, part_items: int, processes: int
    ) -> None:
        self._sections, self._folder, self._part_items = sections, parts, part_items
        self._shard_bytes, self._processes = shard_bytes, processes
        self._layout = ShardLayout(shard_bytes)
        self._results: dict[Part, _PartResult] = {}  # not merged yet
        self._lengths: dict[int, int] = {}  # items by section, where they are known
        self._counting: set[int] = set()
        self._started = 0  # parts in progress
        self._merge = Part(0, 0)  # the next to be merged
        self._last: Part | None = None  # started or complete, the last one in order
        self._ready: deque[ShardPlan] = deque()
        self._shards: dict[int, ShardFile] = {}
        self._used_up = 0  # shards before this one are complete
        self._held: deque[tuple[str, int]] = deque()  # parts whose tar is there, and the last shard that needs it
        self._codes: dict[RecordGroup, int] = {}
        self._folders: list[str] = []
        self.items = 0  # of parts that are complete
        self.quarantined: Counter[str] = Counter()
        self.statistics = ConversionStatistics()
        if not sections:
            self._merged_all()

    @property
    def finished(self) -> bool:
        return self._merge.section >= len(self._sections) and self._used_up == len(self._shards) and not self._held

    @property
    def groups(self) -> list[RecordGroup]:
        return list(self._codes)

    @property
    def shards(self) -> list[ShardFile]:
        """Those that are complete, in order."""
        return [shard for _, shard in sorted(self._shards.items())]

    def restore(self, log: CompletionLog) -> None:
        """Continue after tasks of earlier attempts. Raises: OSError or ValueError where their output is not there."""
        for entry in log.entries():  # before the parts that they used up
            if entry["kind"] == "shard":
                self._add_shard(entry["arguments"], entry["result"])
        for entry in log.entries():
            if entry["kind"] == "part":
                result = _PartResult(**entry["result"])
                rows = (self._folder / result.folder / ROW_FILE).stat().st_size
                if rows != result.records * ROW.itemsize:
                    raise ValueError(f"{result.folder} has another number of rows than were written")
                self._add_part(entry["arguments"], result)
                self._merge_parts()
            elif entry["kind"] == "count":
                self._lengths[entry["arguments"]["number"]] = entry["result"]["items"]
        known = {*self._folders, *(result.folder for result in self._results.values())}
        self._folder.mkdir(exist_ok=True)
        with os.scandir(self._folder) as found:  # unlike ``glob``, it makes no list
            for file in found:
                if file.name not in known:  # of an attempt at a part that was interrupted
                    shutil.rmtree(file.path, ignore_errors=True)

    def next_task(self) -> PartTask | None:
        """A task that can be started now; None: there is none until another one is complete."""
        if self._ready:
            return self._shard_task(self._ready.popleft())
        part = self._next_part()
        if part is not None and len(self._results) + self._started < 4 * self._processes:
            self._last = part
            self._started += 1
            return self._part_task(part)
        return self._count_task() if part is None and self._processes > 1 else None

    def complete(self, arguments: Json, result: Json) -> None:
        """A task is complete. Raises: UserError ``corpus_too_large`` or ``too_many_sources``."""
        if arguments["kind"] == "shard":
            self._add_shard(arguments, result)
        elif arguments["kind"] == "count":
            self._lengths[arguments["number"]] = result["items"]
            self._counting.discard(arguments["number"])
        else:
            self._started -= 1
            self._add_part(arguments, _PartResult(**result))
            self._merge_parts()

    def index_parts(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows and similarities of each part in order, as the index has them."""
        layout = ShardLayout(self._shard_bytes)
        for name in self._folders:
            rows = read_rows(self._folder / name)
            _, rows["shard"], rows["offset"] = layout.add(name, rows["length"])
            groups = _read_manifest(self._folder / name)["groups"]
            codes = np.array([self._codes[RecordGroup(**group)] for group in groups], rows["group"].dtype)
            rows["group"] = codes[rows["group"]] if len(rows) else rows["group"]
            yield rows, np.fromfile(self._folder / name / SIMILARITY_FILE, SIMILARITY)

    def folders(self) -> Iterator[Path]:
        """Of the parts, in order."""
        return (self._folder / name for name in self._folders)

    def _next_part(self) -> Part | None:
        """The next part that is neither complete nor in progress; None: there is none, or it is not known yet."""
        part = Part(0, 0) if self._last is None else self._after(self._last)
        while part is not None and (part < self._merge or part in self._results):
            self._last = part
            part = self._after(part)
        return part if part is not None and part.section < len(self._sections) else None

    def _after(self, part: Part) -> Part | None:
        if part < self._merge:
            return self._merge
        if part in self._results:
            return part.next(self._results[part].items, self._results[part].ended)
        length = self._lengths.get(part.section)
        return None if length is None else part.next(self._part_items, part.start + self._part_items >= length)

    def _part_task(self, part: Part) -> PartTask:
        section, items = self._sections[part.section], self._part_items
        arguments = {
            "kind": "part",
            "number": part.section,
            "section": section.key,
            "start": part.start,
            "limit": items,
            "name": part.name,
        }
        return PartTask(
            arguments, f"items {part.start + 1:,} to {part.start + items:,} of {section.key or 'the corpus'}"
        )

    def _count_task(self) -> PartTask | None:
        """Of the first section whose items must be counted."""
        first = 0 if self._last is None else self._last.section
        for number in range(first, min(first + 1 + self._processes, len(self._sections))):
            if number not in self._lengths and number not in self._counting:
                self._counting.add(number)
                key = self._sections[number].key
                arguments = {"kind": "count", "number": number, "section": key}
                return PartTask(arguments, f"the number of items of {key or 'the corpus'}")
        return None

    @staticmethod
    def _shard_task(plan: ShardPlan) -> PartTask:
        arguments = {"kind": "shard", "number": plan.number, "first": plan.first, "slices": plan.slices}
        return PartTask(arguments, f"shard {plan.number}")

    def _add_part(self, arguments: Json, result: _PartResult) -> None:
        part = Part(arguments["number"], arguments["start"])
        self._results[part] = result
        self.items += result.items
        if result.ended:
            self._lengths[part.section] = part.start + result.items

    def _merge_parts(self) -> None:
        while (result := self._results.pop(self._merge, None)) is not None:
            manifest = _read_manifest(self._folder / result.folder)
            full, shards, _ = self._layout.add(result.folder, read_rows(self._folder / result.folder)["length"])
            self._count(manifest)
            self._queue(full)
            self._folders.append(result.folder)
            self._held.append((result.folder, int(shards[-1]) if len(shards) else -1))
            self._merge = self._merge.next(result.items, result.ended)
            if self._merge.section >= len(self._sections):
                self._merged_all()
        self._remove_used()

    def _merged_all(self) -> None:
        self._queue(self._layout.finish())

    def _queue(self, plans: list[ShardPlan]) -> None:
        self._ready += (plan for plan in plans if plan.number not in self._shards)

    def _count(self, manifest: Json) -> None:
        if self._layout.records > MAX_RECORDS:
            message = f"a sharded corpus holds at most {MAX_RECORDS:,} records; make several, and mix them"
            raise UserError(message, code="corpus_too_large")
        for group in manifest["groups"]:
            self._codes.setdefault(RecordGroup(**group), len(self._codes))
        if len(self._codes) > MAX_GROUPS:
            message = f"more than {MAX_GROUPS:,} kinds of (split, source); name fewer sources"
            raise UserError(message, code="too_many_sources")
        self.quarantined.update(manifest["quarantined"])
        self.statistics.merge(manifest["statistics"])

    def _add_shard(self, arguments: Json, result: Json) -> None:
        self._shards[arguments["number"]] = ShardFile(**result)
        self._remove_used()

    def _remove_used(self) -> None:
        """Remove the tars of parts all of whose records are in shards that are complete."""
        while self._used_up in self._shards:
            self._used_up += 1
        while self._held and self._held[0][1] < self._used_up:
            (self._folder / self._held.popleft()[0] / PART_TAR).unlink(missing_ok=True)


def _read_manifest(part: Path) -> Json:
    value: Json = json.loads((part / MANIFEST).read_text(encoding="utf-8"))
    return value
