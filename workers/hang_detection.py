"""Jobs that make no progress: the deadline that follows from their own pace, and the stacks of their processes."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from lcl_core.common.run_dir import STACK_SIGNAL, RunDir

# times the longest interval between two metric lines of this attempt
PACE_FACTOR = 20.0
# before the first line a job reads its corpus and compiles; what it writes to its log is progress then
_START_FACTOR = 2.0
_MAX_TICK_SECONDS = 5.0  # of a longer one the worker itself was away
_DUMP_SECONDS = 5.0
_BETWEEN_LOOKS_SECONDS = 5.0


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
        self._looked = float("-inf")

    def observe(self, lines: int, run_dir: RunDir) -> None:
        """``lines``: metric lines so far. To be called often; the time of a gap between two calls is not counted."""
        tick, self._ticked = time.monotonic() - self._ticked, time.monotonic()
        self._silent += min(tick, _MAX_TICK_SECONDS)
        if lines == self._lines and time.monotonic() < self._looked + min(_BETWEEN_LOOKS_SECONDS, self._floor / 10):
            return
        self._looked = time.monotonic()
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


def dump_stacks(run_dir: RunDir, group: int) -> str:
    """Have the processes of a job write their stacks to ``artifacts/stacks.txt``. Returns: what came of it.

    Args:
        group: process group of the job.
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
    (run_dir.artifacts / "stacks.txt").write_text("\n".join(parts), encoding="utf-8")
    return f"the artifact stacks.txt has the stacks of {len(written)} of its processes"


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
