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
from pathlib import Path

import numpy as np

from lcl_core.common.errors import UserError
from lcl_core.data.shards.format import MAX_GROUPS, MAX_RECORDS, ROW, SIMILARITY
from lcl_core.data.shards.index import RecordGroup, ShardFile
from lcl_core.data.shards.part_files import MANIFEST, PART_TAR, ShardLayout, ShardPlan, read_rows
from lcl_core.data.shards.statistics import ConversionStatistics
from lcl_core.data.shards.writer import ROW_FILE, SIMILARITY_FILE
from lcl_core.parts.completion_log import CompletionLog
from lcl_core.parts.plan import Section
from lcl_core.parts.runner import Json, PartTask
from lcl_core.parts.section_schedule import SectionSchedule


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
        self._folder, self._shard_bytes = parts, shard_bytes
        self._parts = SectionSchedule(sections, self._merge_part, part_items, processes)
        self._layout = ShardLayout(shard_bytes)
        self._ready: deque[ShardPlan] = deque()
        self._shards: dict[int, ShardFile] = {}
        self._used_up = 0  # shards before this one are complete
        self._held: deque[tuple[str, int]] = deque()  # parts whose tar is there, and the last shard that needs it
        self._codes: dict[RecordGroup, int] = {}
        self._folders: list[str] = []
        self.quarantined: Counter[str] = Counter()
        self.statistics = ConversionStatistics()
        if self._parts.finished:  # no sections
            self._queue(self._layout.finish())

    @property
    def finished(self) -> bool:
        return self._parts.finished and self._used_up == len(self._shards) and not self._held

    @property
    def items(self) -> int:
        """Of parts that are complete."""
        return self._parts.items

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
            result = entry["result"]
            if entry["kind"] == "part":
                rows = (self._folder / result["folder"] / ROW_FILE).stat().st_size
                if rows != result["records"] * ROW.itemsize:
                    raise ValueError(f"{result['folder']} has another number of rows than were written")
            if entry["kind"] != "shard":
                self._parts.restore(entry["arguments"], result)
        known = {*self._folders, *(result["folder"] for result in self._parts.waiting)}
        self._folder.mkdir(exist_ok=True)
        with os.scandir(self._folder) as found:  # unlike ``glob``, it makes no list
            for file in found:
                if file.name not in known:  # of an attempt at a part that was interrupted
                    shutil.rmtree(file.path, ignore_errors=True)

    def next_task(self) -> PartTask | None:
        """A task that can be started now; None: there is none until another one is complete."""
        if self._ready:
            return self._shard_task(self._ready.popleft())
        return self._parts.next_task()

    def complete(self, arguments: Json, result: Json) -> None:
        """A task is complete. Raises: UserError ``corpus_changed``, ``corpus_too_large`` or ``too_many_sources``."""
        if arguments["kind"] == "shard":
            self._add_shard(arguments, result)
        else:
            self._parts.complete(arguments, result)

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

    @staticmethod
    def _shard_task(plan: ShardPlan) -> PartTask:
        arguments = {"kind": "shard", "number": plan.number, "first": plan.first, "slices": plan.slices}
        return PartTask(arguments, f"shard {plan.number}")

    def _merge_part(self, result: Json) -> None:
        folder = self._folder / result["folder"]
        full, shards, _ = self._layout.add(result["folder"], read_rows(folder)["length"])
        self._count(_read_manifest(folder))
        self._queue(full)
        self._folders.append(result["folder"])
        self._held.append((result["folder"], int(shards[-1]) if len(shards) else -1))
        if self._parts.finished:
            self._queue(self._layout.finish())
        self._remove_used()

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
