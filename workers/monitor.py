"""Monitor of one job process: metrics copied, lease renewed, stop requests passed on.

``metrics.jsonl`` is followed while it grows, also when a resumed process has cut it back.
"""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import structlog

from lcl_core.common.run_dir import RunDir
from lcl_core.db.gang import MemberFailure, member_failures
from lcl_core.db.leases import Claim, StaleLease, check_lease, record_interruption, record_metrics, renew_lease
from lcl_core.db.session import UNREACHABLE, Database
from lcl_core.db.states import State
from workers.executors.local import JobProcess
from workers.exit_outcome import ProcessExit, StopReason
from workers.logs import log_database_error
from workers.settings import WorkerSettings

log = structlog.get_logger(__name__)


class MetricsTail:
    """Reads whole new lines. A line that is no metric is left out and logged once it is complete."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self._rest = b""

    def read(self) -> tuple[list[dict[str, Any]], bool]:
        """New metric lines, and whether the file was replaced, so that they are all it holds now."""
        rewound = self._reopen_if_replaced()
        if self._file is None:
            return [], rewound
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        return [metric for line in lines if (metric := _parse_metric(line)) is not None], rewound

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _reopen_if_replaced(self) -> bool:
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False  # not written yet, or between two versions: the next look will tell
        if self._file is not None:
            mine = os.fstat(self._file.fileno())
            if (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino) and there.st_size >= self._file.tell():
                return False
        self.close()
        self._file = self._path.open("rb")
        self._rest = b""
        return True


@dataclass
class PendingMetrics:
    """Metric lines that the database does not have yet. False when there is nothing to tell it."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    rewound: bool = False  # ``lines`` is all that the file holds

    def take(self, tail: MetricsTail) -> None:
        """Add what ``tail`` has to tell."""
        lines, rewound = tail.read()
        self.lines = lines if rewound else self.lines + lines
        self.rewound |= rewound

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


LEASE_SAFETY = 0.8  # of a lease's length: by then, without a renewal, the process must be gone


class JobMonitor:
    """Looks at a trainer every ``watch_seconds`` until it has left.

    Args:
        stopping: set when the worker is leaving.
    """

    def __init__(
        self,
        database: Database,
        settings: WorkerSettings,
        claim: Claim,
        trainer: JobProcess,
        run_dir: RunDir,
        tail: MetricsTail,
        stopping: threading.Event,
    ) -> None:
        self._database = database
        self._settings = settings
        self._claim = claim
        self._trainer = trainer
        self._run_dir = run_dir
        self._noticed = False
        self._tail = tail
        self._unsaved = PendingMetrics()
        self._stopping = stopping
        self._started = self._renewed = time.monotonic()
        self._ending: StopReason | None = None
        self._kill_at = float("inf")
        self._losses: list[MemberFailure] = []  # of other nodes

    @property
    def ran_seconds(self) -> float:
        """Work on the run so far, earlier attempts too."""
        return self._claim.ran_seconds + time.monotonic() - self._started

    def until_exit(self) -> ProcessExit:
        """Raises: StaleLease, once the process has been killed because the run is no longer ours."""
        while (status := self._trainer.wait(self._settings.watch_seconds)) is None:
            self._look()
            if time.monotonic() > self._kill_at:
                log.warning("grace_over", ending=self._ending)
                status = self._trainer.kill()
                break
        self._drain()
        return ProcessExit(status, self._ending, self._trainer.log_start)

    def _look(self) -> None:
        try:
            self._decide(self._exchange())
        except StaleLease:
            self._trainer.kill()
            raise
        except UNREACHABLE as error:
            log_database_error(error)
            if self._lease_is_over():
                # others may take the run over any moment now: nothing may write beside them
                self._trainer.kill()
                raise StaleLease(self._claim.run_id) from error

    def _drain(self) -> None:
        """Copy the last metrics of a process that has left. Raises: StaleLease."""
        while True:
            try:
                self._exchange()
                return
            except UNREACHABLE as error:
                log_database_error(error)
                if self._lease_is_over():
                    raise StaleLease(self._claim.run_id) from error
                time.sleep(self._settings.watch_seconds)

    def _lease_is_over(self) -> bool:
        return time.monotonic() > self._renewed + LEASE_SAFETY * self._settings.lease_seconds

    def _exchange(self) -> State:
        """Tell the database what is new, and learn the run's state."""
        self._unsaved.take(self._tail)
        renewal = time.monotonic()
        notice = self._notice()
        if not self._unsaved and not notice and renewal < self._renewed + self._settings.heartbeat_seconds:
            with self._database.reading() as session:
                self._losses, _ = member_failures(session, self._claim)
                return check_lease(session, self._claim)
        with self._database.session() as session:
            if self._unsaved:
                record_metrics(session, self._claim, self._unsaved.lines, rewound=self._unsaved.rewound)
            if notice:
                record_interruption(session, self._claim, notice)
            self._losses, _ = member_failures(session, self._claim)
            state = renew_lease(session, self._claim, self._settings.lease_seconds, self.ran_seconds)
        self._unsaved = PendingMetrics()
        self._renewed = renewal
        self._noticed |= bool(notice)
        return state

    def _notice(self) -> dict[str, Any]:
        """What the process says that it came upon, until the database has it."""
        if self._noticed or not self._run_dir.notice_file.exists():
            return {}
        notice: dict[str, Any] = json.loads(self._run_dir.notice_file.read_text(encoding="utf-8"))
        log.warning("run_notice", code=notice["code"], words=notice["message"])
        return notice

    def _decide(self, state: State) -> None:
        """Ask the process to leave, once, if somebody wants that."""
        limit = self._claim.spec.get("timeout_seconds")
        if self._ending is not None:
            return
        if state is State.CANCELLING:
            self._ask(StopReason.CANCEL)
        elif state is State.PAUSING:
            self._ask(StopReason.PAUSE)
        elif self._stopping.is_set():
            self._ask(StopReason.SHUTDOWN)
        elif limit is not None and self.ran_seconds > limit:
            self._ask(StopReason.TIMEOUT)
        elif self._losses:
            self._follow()

    def _follow(self) -> None:
        """Another node has ended. If that was in order, its ranks have told ours, which leave by themselves."""
        log.warning("node_lost", told=[loss.message for loss in self._losses])
        self._ending = StopReason.NODE
        lost = any(loss.uses_attempt for loss in self._losses)
        self._kill_at = time.monotonic() + (0.0 if lost else self._settings.cancel_grace_seconds)

    def _ask(self, ending: StopReason) -> None:
        log.info("asked_to_leave", ending=ending.value)
        self._ending = ending
        self._kill_at = time.monotonic() + self._settings.cancel_grace_seconds
        self._trainer.terminate()
