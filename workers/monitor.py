"""Monitor of one job process: metrics and checkpoints reported, stop requests passed on, hangs ended."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

import structlog

from lcl_core.common.logging import log_database_error
from lcl_core.common.run_dir import ExitCode
from lcl_core.db.leases import (
    StaleLease,
    check_lease,
    record_checkpoint,
    record_interruption,
    record_metrics,
)
from lcl_core.db.session import UNREACHABLE
from lcl_core.db.states import State
from workers.executors.base import Job, MachineLost
from workers.failure_table import ProcessExit, StopReason
from workers.job_output import MetricsTail, PendingMetrics, ProgressDeadline, newest_checkpoint
from workers.lease_keeper import Attempt

log = structlog.get_logger(__name__)


class JobMonitor:
    """Monitors a job process every ``watch_seconds`` until it has exited."""

    def __init__(self, attempt: Attempt, job: Job) -> None:
        self._database, self._settings, self._claim = attempt.database, attempt.settings, attempt.claim
        self._run_dir, self._lease, self._clock = attempt.run_dir, attempt.lease, attempt.clock
        self._stopping, self._job = attempt.stopping, job
        self._tail = MetricsTail(self._run_dir.metrics_file)
        self._unsaved = PendingMetrics()
        self._notice_recorded = False
        self._checkpoint = ""
        self._progress = ProgressDeadline(self._settings.hung_seconds)
        self._stop_reason: StopReason | None = None
        self._hang = self._loss = ""

    def until_exit(self) -> ProcessExit:
        """Raises: StaleLease, after the process has been killed because the lease was lost."""
        self._clock.start()
        with closing(self._tail):
            with self._lease.protect(self._job):
                status = self._until_status()
            self._tail.reopen()
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
        self._unsaved.read_from(self._tail)
        if self._job.is_paused:
            self._clock.pause()
        else:
            self._clock.start()
            self._progress.observe(self._unsaved.count, self._run_dir)
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
        self._unsaved.read_from(self._tail)
        notice, checkpoint = self._read_notice(), newest_checkpoint(self._run_dir.checkpoints)
        if not self._unsaved and not notice and checkpoint == self._checkpoint:
            with self._database.reading() as session:
                return check_lease(session, self._claim)
        with self._database.session() as session:
            if self._unsaved:
                rewound_to = self._tail.last_step if self._unsaved.rewound else None
                record_metrics(session, self._claim, self._unsaved.lines, rewound_to=rewound_to)
            if notice:
                record_interruption(session, self._claim, notice)
            record_checkpoint(session, self._claim, checkpoint)
            state = check_lease(session, self._claim)
        self._unsaved.clear()
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
