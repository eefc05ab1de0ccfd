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
from workers.settings import LEASE_SAFETY, WorkerSettings

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
            if (opened.st_dev, opened.st_ino) == (
                current.st_dev,
                current.st_ino,
            ) and current.st_size >= self._file.tell():
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

    def read_from(self, tail: MetricsTail) -> None:
        """Add the new lines of ``tail``."""
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


class JobMonitor:
    """Monitors a job process every ``watch_seconds`` until it has exited.

    Args:
        stopping: set when the worker stops.
    """

    def __init__(
        self,
        database: Database,
        settings: WorkerSettings,
        claim: Claim,
        process: JobProcess,
        run_dir: RunDir,
        tail: MetricsTail,
        stopping: threading.Event,
    ) -> None:
        self._database = database
        self._settings = settings
        self._claim = claim
        self._process = process
        self._run_dir = run_dir
        self._notice_recorded = False
        self._tail = tail
        self._unsaved = PendingMetrics()
        self._stopping = stopping
        self._started = self._renewed = time.monotonic()
        self._stop_reason: StopReason | None = None
        self._kill_at = float("inf")
        self._failures: list[MemberFailure] = []  # of other nodes

    @property
    def ran_seconds(self) -> float:
        """Seconds of work on the run so far, earlier attempts included."""
        return self._claim.ran_seconds + time.monotonic() - self._started

    def until_exit(self) -> ProcessExit:
        """Raises: StaleLease, after the process has been killed because the lease was lost."""
        while (status := self._process.wait(self._settings.watch_seconds)) is None:
            self._check()
            if time.monotonic() > self._kill_at:
                log.warning("grace_exceeded", reason=self._stop_reason)
                status = self._process.kill()
                break
        self._drain()
        return ProcessExit(status, self._stop_reason, self._process.log_start)

    def _check(self) -> None:
        try:
            self._decide(self._exchange())
        except StaleLease:
            self._process.kill()
            raise
        except UNREACHABLE as error:
            log_database_error(error)
            if self._lease_expires():
                # another worker may claim the run any moment: nothing may write beside it
                self._process.kill()
                raise StaleLease(self._claim.run_id) from error

    def _drain(self) -> None:
        """Copy the last metrics of a process that has exited. Raises: StaleLease."""
        while True:
            try:
                self._exchange()
                return
            except UNREACHABLE as error:
                log_database_error(error)
                if self._lease_expires():
                    raise StaleLease(self._claim.run_id) from error
                time.sleep(self._settings.watch_seconds)

    def _lease_expires(self) -> bool:
        return time.monotonic() > self._renewed + LEASE_SAFETY * self._settings.lease_seconds

    def _exchange(self) -> State:
        """Write metrics, notice and lease to the database; read the run's state."""
        self._unsaved.read_from(self._tail)
        renewal = time.monotonic()
        notice = self._read_notice()
        if not self._unsaved and not notice and renewal < self._renewed + self._settings.heartbeat_seconds:
            with self._database.reading() as session:
                self._failures, _ = member_failures(session, self._claim)
                return check_lease(session, self._claim)
        with self._database.session() as session:
            if self._unsaved:
                record_metrics(session, self._claim, self._unsaved.lines, rewound=self._unsaved.rewound)
            if notice:
                record_interruption(session, self._claim, notice)
            self._failures, _ = member_failures(session, self._claim)
            state = renew_lease(session, self._claim, self._settings.lease_seconds, self.ran_seconds)
        self._unsaved = PendingMetrics()
        self._renewed = renewal
        self._notice_recorded |= bool(notice)
        return state

    def _read_notice(self) -> dict[str, Any]:
        """Content of ``notice.json`` until the database has it."""
        if self._notice_recorded or not self._run_dir.notice_file.exists():
            return {}
        notice: dict[str, Any] = json.loads(self._run_dir.notice_file.read_text(encoding="utf-8"))
        log.warning("run_notice", code=notice["code"], reason=notice["message"])
        return notice

    def _decide(self, state: State) -> None:
        """Stop the process, once, when the run's state, the worker, the timeout or another node says so."""
        limit = self._claim.spec.get("timeout_seconds")
        if self._stop_reason is not None:
            return
        if state is State.CANCELLING:
            self._stop(StopReason.CANCEL)
        elif state is State.PAUSING:
            self._stop(StopReason.PAUSE)
        elif self._stopping.is_set():
            self._stop(StopReason.SHUTDOWN)
        elif limit is not None and self.ran_seconds > limit:
            self._stop(StopReason.TIMEOUT)
        elif self._failures:
            self._stop_after_node()

    def _stop_after_node(self) -> None:
        """Another node has ended. After an orderly end its ranks have notified ours, which exit by themselves."""
        log.warning("node_lost", failures=[failure.message for failure in self._failures])
        self._stop_reason = StopReason.NODE
        lost = any(failure.uses_attempt for failure in self._failures)
        self._kill_at = time.monotonic() + (0.0 if lost else self._settings.cancel_grace_seconds)

    def _stop(self, reason: StopReason) -> None:
        log.info("stop_requested", reason=reason.value)
        self._stop_reason = reason
        self._kill_at = time.monotonic() + self._settings.cancel_grace_seconds
        self._process.terminate()
