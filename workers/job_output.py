"""What a job reports in RUN_DIR: metric lines, checkpoints, whether it gets on at all, and the stacks of its processes.

``metrics.jsonl`` is followed while it grows, also when a resumed process has cut it back.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import structlog

from lcl_core.common.run_dir import STACK_SIGNAL, RunDir
from lcl_core.parts.completion_log import LOG_FILE

# times the longest interval between two metric lines of this attempt
PACE_FACTOR = 20.0
# before the first line a job reads its corpus and compiles; what it writes to its log is progress then
_START_FACTOR = 2.0
_MAX_TICK_SECONDS = 5.0  # of a longer one the worker itself was away
_DUMP_SECONDS = 5.0
_STAT_INTERVAL_SECONDS = 5.0  # between two readings of file times and sizes
log = structlog.get_logger(__name__)


class MetricsTail:
    """Reads new complete lines of ``metrics.jsonl``. A line that is no metric is logged and left out."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self._rest = b""

    def read(self) -> tuple[list[dict[str, Any]], bool]:
        """Returns: new metric lines, and whether the file was replaced and they are its whole content."""
        rewound = self._reopen_if_replaced()
        if self._file is None:
            return [], rewound
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        return [metric for line in lines if (metric := _parse_metric(line)) is not None], rewound

    def reopen(self) -> None:
        """Open the file anew, to go on where it was: NFS shows what another machine wrote last to whoever opens it."""
        if self._file is None:
            return
        position, before = self._file.tell(), os.fstat(self._file.fileno())
        self.close()
        with contextlib.suppress(FileNotFoundError):
            file = self._path.open("rb")
            opened = os.fstat(file.fileno())
            if (opened.st_dev, opened.st_ino) != (before.st_dev, before.st_ino) or opened.st_size < position:
                file.close()  # it was replaced: the next read begins anew
                return
            file.seek(position)
            self._file = file

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _reopen_if_replaced(self) -> bool:
        try:
            current = self._path.stat()
        except FileNotFoundError:
            return False  # not written yet, or being replaced: the next read finds it
        if self._file is not None:
            opened = os.fstat(self._file.fileno())
            same_file = (opened.st_dev, opened.st_ino) == (current.st_dev, current.st_ino)
            if same_file and current.st_size >= self._file.tell():
                return False
        self.close()
        self._file = self._path.open("rb")
        self._rest = b""
        return True


@dataclass
class PendingMetrics:
    """Metric lines that the database does not have yet. False when there are none."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    rewound: bool = False  # ``lines`` is all that the file holds
    count: int = 0  # of lines read so far

    def read_from(self, tail: MetricsTail) -> None:
        """Add the new lines of ``tail``."""
        lines, rewound = tail.read()
        self.count += len(lines)
        self.lines = lines if rewound else self.lines + lines
        self.rewound |= rewound

    def clear(self) -> None:
        """The database has them."""
        self.lines, self.rewound = [], False

    def __bool__(self) -> bool:
        return bool(self.lines) or self.rewound


def _parse_metric(line: bytes) -> dict[str, Any] | None:
    if not line.strip():
        return None
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if isinstance(value, dict) and isinstance(value.get("step"), int):
        return value
    log.warning("metric_line_unreadable", line=line[:200].decode("utf-8", "replace"))
    return None


def newest_checkpoint(folder: Path) -> str:
    """Name of the newest checkpoint, later ones being greater; '' without any.

    A file that is written anew each time, as small jobs do, is named by its time; a log of completed parts by its size,
    which grows with each of them, and neither when an attempt begins anew nor when it continues.
    """
    found = list(folder.glob("[!.]*")) if folder.is_dir() else []
    with contextlib.suppress(FileNotFoundError):  # replaced or removed meanwhile: the next call finds the newer one
        return max(map(_checkpoint_name, found), default="")
    return ""


def _checkpoint_name(path: Path) -> str:
    """Raises: FileNotFoundError."""
    if not path.is_dir():
        return f"{path.name}@{path.stat().st_mtime_ns}"
    log_file = path / LOG_FILE
    return f"{path.name}@{log_file.stat().st_size:016d}" if log_file.exists() else path.name


class ProgressDeadline:
    """Counts the seconds without progress: metric lines and checkpoints, before the first line the log too.

    Args:
        floor_seconds: without progress that are allowed whatever the pace; twice as many before the first line.
    """

    def __init__(self, floor_seconds: float) -> None:
        self._floor = floor_seconds
        self._seen: tuple[object, ...] = ()
        self._lines, self._ticked = 0, time.monotonic()
        self._silent = self._longest = 0.0
        self._stat_at = float("-inf")

    def observe(self, lines: int, run_dir: RunDir) -> None:
        """``lines``: metric lines so far. To be called often; the time of a gap between two calls is not counted."""
        tick, self._ticked = time.monotonic() - self._ticked, time.monotonic()
        self._silent += min(tick, _MAX_TICK_SECONDS)
        if lines == self._lines and time.monotonic() < self._stat_at + min(_STAT_INTERVAL_SECONDS, self._floor / 10):
            return
        self._stat_at = time.monotonic()
        seen = (lines, _modified(run_dir.checkpoints), *(() if lines else (_size(run_dir.log_file),)))
        if seen == self._seen:
            return
        if self._lines and lines > self._lines:
            self._longest = max(self._longest, self._silent / (lines - self._lines))
        self._seen, self._lines, self._silent = seen, lines, 0.0

    @property
    def limit_seconds(self) -> float:
        """Seconds without progress after which the job counts as hung."""
        return max(self._floor, PACE_FACTOR * self._longest) if self._lines else _START_FACTOR * self._floor

    @property
    def exceeded(self) -> bool:
        return self._silent > self.limit_seconds

    def describe(self) -> str:
        """What happened, in a sentence."""
        if not self._lines:
            return f"the job wrote neither a metric line nor a line of its log for {self._silent:.0f} s"
        return (
            f"the job made no progress for {self._silent:.0f} s after metric line {self._lines} "
            f"(the longest interval before was {self._longest:.1f} s)"
        )


def dump_stacks(run_dir: RunDir, group: int, name: str = "stacks.txt") -> str:
    """Have the processes of a job write their stacks to an artifact. Returns: what came of it.

    Args:
        group: process group of the job.
        name: of the artifact.
    """
    files = {path: _size(path) for path in run_dir.stacks.glob("*.txt") if _in_group(path, group)}
    for path in files:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(path.stem), STACK_SIGNAL)
    deadline = time.monotonic() + _DUMP_SECONDS
    while any(_size(path) == size for path, size in files.items()) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.05 if files else 0.0)  # a stack is written in several parts
    written = [path for path, size in files.items() if _size(path) > size]
    if not written:
        return "none of its processes wrote its stacks"
    parts = [f"=== {path.read_text(encoding='utf-8', errors='replace')}" for path in sorted(written)]
    (run_dir.artifacts / name).write_text("\n".join(parts), encoding="utf-8")
    return f"the artifact {name} has the stacks of {len(written)} of its processes"


def _in_group(path: Path, group: int) -> bool:
    try:
        return path.stem.isdecimal() and os.getpgid(int(path.stem)) == group
    except ProcessLookupError:
        return False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _modified(folder: Path) -> int:
    """The time of the newest change among a folder and its entries."""
    try:
        return max((path.stat().st_mtime_ns for path in (folder, *folder.iterdir())), default=0)
    except OSError:
        return 0
