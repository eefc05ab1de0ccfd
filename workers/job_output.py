"""What a job reports in RUN_DIR: metric lines, checkpoints, whether it makes progress, and the stacks of its processes.

``metrics.jsonl`` is followed while it grows, also when a resumed process has truncated it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import structlog

from lcl_core.common.run_dir import STACK_SIGNAL, RunDir
from lcl_core.parts import LOG_FILE

LINES_A_READ = 2000  # of metrics: what the database gets in one transaction
# times the longest interval between two metric lines of this attempt
PACE_FACTOR = 20.0
# before the first line a job reads its corpus and compiles; what it writes to its log is progress then
_START_FACTOR = 2.0
_MAX_TICK_SECONDS = 5.0  # during a longer gap the worker itself was suspended
_DUMP_SECONDS = 5.0
_STAT_INTERVAL_SECONDS = 5.0  # between two readings of file times and sizes
log = structlog.get_logger(__name__)


class MetricsTail:
    """Reads new complete lines of ``metrics.jsonl``, in parts. A line that is not a metric is logged and left out.

    A file that is opened at the start of an attempt, or that a process has truncated, is read from its beginning.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self._position = 0
        self.more = False  # the last call of ``read`` left complete lines for the next one
        self.last_step = -1  # greatest step in the file when it was opened

    def read(self, limit: int = LINES_A_READ) -> tuple[list[dict[str, Any]], bool]:
        """Returns: up to ``limit`` new metric lines, and whether they are the first of another file."""
        replaced, metrics = self._reopen_if_replaced(), []
        self.more = False
        if self._file is None:
            return [], replaced
        self._file.seek(self._position)
        for number, line in enumerate(_complete_lines(self._file)):
            if number == limit:
                self.more = True
                break
            self._position += len(line)
            if (metric := _parse_metric(line)) is not None:
                metrics.append(metric)
            elif line.strip():
                log.warning("metric_line_unreadable", line=line[:200].decode("utf-8", "replace"))
        return metrics, replaced

    def reopen(self) -> None:
        """Open the file again at the same position: NFS shows what another machine wrote last only after an open."""
        if self._file is None:
            return
        with contextlib.suppress(FileNotFoundError):
            file = self._path.open("rb")
            if not self._is_open(os.fstat(file.fileno())):
                file.close()  # it was replaced: the next read starts again
                return
            self.close()
            self._file = file

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _is_open(self, found: os.stat_result) -> bool:
        """Whether that is the open file, of which nothing that was read has been cut off."""
        if self._file is None:
            return False
        opened = os.fstat(self._file.fileno())
        return (opened.st_dev, opened.st_ino) == (found.st_dev, found.st_ino) and found.st_size >= self._position

    def _reopen_if_replaced(self) -> bool:
        try:
            current = self._path.stat()
        except FileNotFoundError:
            return False  # not written yet, or being replaced: the next read finds it
        if self._is_open(current):
            return False
        self.close()
        self._file, self._position = self._path.open("rb"), 0
        metrics = (_parse_metric(line) for line in _complete_lines(self._file))
        self.last_step = max((metric["step"] for metric in metrics if metric is not None), default=-1)
        return True


@dataclass
class PendingMetrics:
    """Metric lines that the database does not have yet, at most ``LINES_A_READ``. False when there are none."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    rewound: bool = False  # ``lines`` are the first of another file
    count: int = 0  # of lines read so far

    def read_from(self, tail: MetricsTail) -> None:
        """Add new lines of ``tail``."""
        lines, rewound = tail.read(LINES_A_READ - len(self.lines))
        self.count += len(lines)
        self.lines = lines if rewound else self.lines + lines
        self.rewound |= rewound

    def clear(self) -> None:
        """The database has them."""
        self.lines, self.rewound = [], False

    def __bool__(self) -> bool:
        return bool(self.lines) or self.rewound


def _complete_lines(file: IO[bytes]) -> Iterator[bytes]:
    return itertools.takewhile(lambda line: line.endswith(b"\n"), file)


def _parse_metric(line: bytes) -> dict[str, Any] | None:
    """None: the line is not a metric, or its step is not one that a database stores."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    if isinstance(value, dict) and isinstance(step := value.get("step"), int) and abs(step) < 1 << 63:
        return value
    return None


def newest_checkpoint(folder: Path) -> str:
    """Name of the newest checkpoint, later ones being greater; '' without any.

    A file that is rewritten each time, as small jobs do, is named by its time; a log of completed parts by its size,
    which grows with each part, but neither when an attempt starts from the beginning nor when it continues.
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
        """``lines``: metric lines so far. To be called often; the time of a long gap between calls is not counted."""
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
