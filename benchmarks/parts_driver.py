"""``python -m benchmarks.parts_driver RECORDS FOLDER``: memory of the one driver of a conversion in parts, as JSON.

The parts are made up: no record is read and no image is decoded, so that what remains is the driver's own.
"""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np

from lcl_core.data.shards.convert_parts import convert_parts
from lcl_core.data.shards.format import ROW, SIMILARITY
from lcl_core.data.shards.statistics import ConversionStatistics
from lcl_core.data.shards.writer import ROW_FILE, SIMILARITY_FILE
from lcl_core.parts.plan import PART_ITEMS, Section

SECTIONS = 10
GROUPS = [{"kind": "matched", "split": split, "source": source} for split, source in (("train", "a"), ("val", "b"))]


class MadeUpRecords:
    """A source of so many records, none of which is read."""

    def __init__(self, records: int) -> None:
        self.records = records

    def sections(self) -> list[Section]:
        return [Section(str(number)) for number in range(SECTIONS)]

    def count_section(self, key: str) -> int:
        return self.records // SECTIONS


class MadeUpParts:
    """A runner whose tasks are complete at once."""

    processes, deaths = 2, 0

    def __init__(self, records: int, work: Path) -> None:
        self._section, self._work, self._tasks = records // SECTIONS, work, list[Any]()
        self._rows = np.zeros(PART_ITEMS, ROW)
        self._rows["length"], self._rows["json"], self._rows["images"], self._rows["matches"] = 2048, 1024, 1, 1
        self._rows["offset"], self._rows["group"] = np.arange(PART_ITEMS) * 2048, np.arange(PART_ITEMS) % 2

    @property
    def idle(self) -> int:
        return self.processes - len(self._tasks)

    def submit(self, task: Any) -> None:
        self._tasks.append(task)

    def wait(self, report: Callable[..., None], seconds: float = 0.5) -> list[Any]:
        task = self._tasks.pop(0)
        make = {"count": self._count, "shard": self._shard}.get(task.arguments["kind"], self._part)
        return [(task, make(task.arguments))]

    def _count(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return {"items": self._section}

    def _shard(self, arguments: dict[str, Any]) -> dict[str, Any]:
        name = f"shards/{arguments['number']:06d}.tar"
        (self._work / "dataset" / name).write_bytes(b"x")
        return {"name": name, "bytes": 1, "sha256": "0" * 64, "records": sum(row[2] for row in arguments["slices"])}

    def _part(self, arguments: dict[str, Any]) -> dict[str, Any]:
        items = min(arguments["limit"], self._section - arguments["start"])
        name = f"{arguments['name']}.{secrets.token_hex(6)}"
        folder = self._work / "parts" / name
        folder.mkdir(parents=True)
        self._rows[:items].tofile(folder / ROW_FILE)
        np.full(items, 0.5, SIMILARITY).tofile(folder / SIMILARITY_FILE)
        (folder / "quarantine.jsonl").touch()
        statistics = ConversionStatistics().counts()
        statistics["counts"]["documents"] = items
        content = {"groups": GROUPS, "quarantined": {}, "statistics": statistics}
        (folder / "part.json").write_text(json.dumps(content))
        ended = arguments["start"] + items == self._section
        return {"folder": name, "items": items, "records": items, "ended": ended}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def main(records: int, folder: Path) -> None:
    work = folder / "work"
    source: Any = MadeUpRecords(records)
    runner: Any = lambda _: MadeUpParts(records, work)  # noqa: E731
    made = convert_parts(source, folder / "made", work, 256 << 20, processes=2, runner=runner)
    print(json.dumps({"records": made.report.records, "peak_bytes": _peak_bytes()}))


def _peak_bytes() -> int:
    """Of this program alone: the kernel's other counter begins with the memory of the process that started it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
