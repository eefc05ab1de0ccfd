"""Monitor of one job process: metrics and checkpoints reported, stop requests passed on, hangs ended.

``metrics.jsonl`` is followed while it grows, also when a resumed process has truncated it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import structlog

from lcl_core.common.logging import log_database_error
from lcl_core.common.run_dir import ExitCode, RunDir
from lcl_core.db.leases import (
    StaleLease,
    check_lease,
    record_checkpoint,
    record_interruption,
    record_metrics,
)
from lcl_core.db.session import UNREACHABLE
from lcl_core.db.states import State
from lcl_core.parts import LOG_FILE
from workers.executors.base import Job, MachineLost
from workers.failure_table import ProcessExit, StopReason
from workers.lease_keeper import Attempt

LINES_A_READ = 2000  # of metrics: what the database gets in one transaction
# times the longest interval between two metric lines of this attempt
PACE_FACTOR = 20.0
# before the first line a job reads its corpus and compiles; what it writes to its log is progress then
_START_FACTOR = 2.0
_MAX_TICK_SECONDS = 5.0  # during a longer gap the worker itself was suspended
_STAT_INTERVAL_SECONDS = 5.0  # between two readings of file times and sizes
log = structlog.get_logger(__name__)


class MetricsTail:
    """New complete lines of ``metrics.jsonl`` that the database does not have yet, at most LINES_A_READ at a time.

    The file is opened for each read: NFS shows what another machine wrote last only after an open. A file that is read
    first in an attempt, or that a process has truncated, is read from its beginning.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._position = path, 0
        self._inode: tuple[int, int] | None = None
        self.lines: list[dict[str, Any]] = []
        self.rewound = False  # ``lines`` are the first of another file
        self.more = False  # complete lines are left in the file
        self.count = 0  # of lines read so far
        self.last_step = -1  # greatest step in the file when its beginning was read

    def read(self) -> None:
        self.more = False
        with contextlib.suppress(FileNotFoundError), self._path.open("rb") as file:  # it may be replaced at the moment
            found = os.fstat(file.fileno())
            if (found.st_dev, found.st_ino) != self._inode or found.st_size < self._position:
                self._inode, self._position = (found.st_dev, found.st_ino), 0
                self.lines, self.rewound = [], True
                metrics = (_parse_metric(line) for line in _complete_lines(file))
                self.last_step = max((metric["step"] for metric in metrics if metric is not None), default=-1)
            file.seek(self._position)
            for line in _complete_lines(file):
                if len(self.lines) == LINES_A_READ:
                    self.more = True
                    break
                self._position += len(line)
                if (metric := _parse_metric(line)) is not None:
                    self.lines.append(metric)
                    self.count += 1
                elif line.strip():
                    log.warning("metric_line_unreadable", line=line[:200].decode("utf-8", "replace"))

    def clear(self) -> None:
        """The database has the lines."""
        self.lines, self.rewound = [], False


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


class JobMonitor:
    """Monitors a job process every ``watch_seconds`` until it has exited."""

    def __init__(self, attempt: Attempt, job: Job) -> None:
        self._database, self._settings, self._claim = attempt.database, attempt.settings, attempt.claim
        self._run_dir, self._lease, self._clock = attempt.run_dir, attempt.lease, attempt.clock
        self._stopping, self._job = attempt.stopping, job
        self._tail = MetricsTail(self._run_dir.metrics_file)
        self._notice_recorded = False
        self._checkpoint = ""
        self._progress = ProgressDeadline(self._settings.hung_seconds)
        self._stop_reason: StopReason | None = None
        self._hang = self._loss = ""

    def until_exit(self) -> ProcessExit:
        """Raises: StaleLease, after the process has been killed because the lease was lost."""
        self._clock.start()
        with self._lease.protect(self._job):
            status = self._until_status()
        self._lease.persist(self._exchange)
        while self._tail.more and self._stop_reason is not StopReason.DETACHED:
            self._lease.persist(self._exchange)
        if self._lease.ended_process and self._stop_reason is None:
            self._stop_reason = StopReason.DATABASE
        job = self._job
        return ProcessExit(status, self._stop_reason, job.log_start, self._hang, self._loss, job.log_file)

    def _until_status(self) -> int:
        """Exit status, or 0 where this worker leaves and the processes continue. Raises: StaleLease."""
        try:
            while (status := self._job.wait(self._settings.watch_seconds)) is None:
                self._check()
                if self._stop_reason is StopReason.DETACHED:
                    return ExitCode.OK
        except MachineLost as error:
            log.warning("machine_lost", problem=str(error))
            self._loss = str(error)
            self._stop_reason = self._stop_reason or StopReason.MACHINE
            return self._job.kill()
        return status

    def _check(self) -> None:
        self._tail.read()
        if self._job.is_paused:
            self._clock.pause()
        else:
            self._clock.start()
            self._progress.observe(self._tail.count, self._run_dir)
        state = None
        try:
            self._lease.check()
            state = self._exchange()
        except StaleLease:
            self._job.kill()
            raise
        except UNREACHABLE as error:
            log_database_error(error)
        self._decide(state)

    def _exchange(self) -> State:
        """Write metrics, notice and checkpoint to the database; read the run's state. Raises: StaleLease.

        Only a part of many metric lines, so that no transaction is long; ``_tail.more`` then is True.
        """
        tail = self._tail
        tail.read()
        notice, checkpoint = self._read_notice(), newest_checkpoint(self._run_dir.checkpoints)
        if not (tail.lines or tail.rewound or notice) and checkpoint == self._checkpoint:
            with self._database.reading() as session:
                return check_lease(session, self._claim)
        with self._database.session() as session:
            if tail.lines or tail.rewound:
                record_metrics(session, self._claim, tail.lines, rewound_to=tail.last_step if tail.rewound else None)
            if notice:
                record_interruption(session, self._claim, notice)
            record_checkpoint(session, self._claim, checkpoint)
            state = check_lease(session, self._claim)
        tail.clear()
        self._checkpoint = checkpoint
        self._notice_recorded |= bool(notice)
        return state

    def _read_notice(self) -> dict[str, Any]:
        """Content of ``notice.json`` until the database has it."""
        if self._notice_recorded or not self._run_dir.notice_file.exists():
            return {}
        notice: dict[str, Any] = json.loads(self._run_dir.notice_file.read_text(encoding="utf-8"))
        log.warning("run_notice", code=notice["code"], reason=notice["message"])
        return notice

    def _decide(self, state: State | None) -> None:
        """Stop the process, once, when the run's state, the worker, or a time limit says so.

        Args:
            state: None when the database is unreachable.
        """
        limit = self._claim.spec.get("timeout_seconds")
        if self._stop_reason is not None:
            return
        if state is State.CANCELLING:
            self._stop(StopReason.CANCEL)
        elif state is State.PAUSING:
            self._stop(StopReason.PAUSE)
        elif self._stopping.is_set():
            # the processes continue if another worker can re-attach, else they save their state
            if state is State.RUNNING and self._job.detach():
                self._stop_reason = StopReason.DETACHED
            else:
                self._stop(StopReason.SHUTDOWN)
        elif limit is not None and self._clock.seconds > limit:
            self._stop(StopReason.TIMEOUT)
        elif self._progress.exceeded:  # a hung process would write no checkpoint: it is killed, with its stacks known
            self._stop_reason = StopReason.HUNG
            self._hang = f"{self._progress.describe()}; {self._job.dump_stacks()}"
            log.warning("job_hung", problem=self._hang)
            self._job.kill()

    def _stop(self, reason: StopReason) -> None:
        log.info("stop_requested", reason=reason.value)
        self._stop_reason = reason
        self._lease.end_process(self._settings.cancel_grace_seconds)
