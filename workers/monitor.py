"""Monitor of one job process: metrics and checkpoints reported, stop requests passed on, hangs ended."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import structlog

from lcl_core.common.logging import log_database_error
from lcl_core.common.run_dir import ExitCode, RunDir
from lcl_core.db.leases import (
    Claim,
    StaleLease,
    check_lease,
    record_checkpoint,
    record_interruption,
    record_metrics,
    stored_metrics_marks,
)
from lcl_core.db.session import UNREACHABLE, Database
from lcl_core.db.states import State
from workers.executors.base import Job, MachineLost
from workers.exit_outcome import ProcessExit, StopReason
from workers.job_output import MetricsTail, PendingMetrics, ProgressDeadline, newest_checkpoint
from workers.lease_keeper import LeaseKeeper
from workers.settings import WorkerSettings

log = structlog.get_logger(__name__)


class WorkClock:
    """Seconds of work on a run: those of earlier attempts, and those since ``start`` without pauses. Thread-safe."""

    def __init__(self, earlier_seconds: float) -> None:
        self._counted: tuple[float, float | None] = (earlier_seconds, None)  # until the last pause; since when it runs

    def start(self) -> None:
        if self._counted[1] is None:
            self._counted = (self._counted[0], time.monotonic())

    def pause(self) -> None:
        """Until the next ``start`` no second counts."""
        self._counted = (self.seconds, None)

    @property
    def seconds(self) -> float:
        earlier, started = self._counted
        return earlier + (0.0 if started is None else time.monotonic() - started)


class JobMonitor:
    """Monitors a job process every ``watch_seconds`` until it has exited.

    Args:
        lease: renewed, and the process ended by it, independently of this monitor.
        stopping: set when the worker stops.
    """

    def __init__(
        self,
        database: Database,
        settings: WorkerSettings,
        claim: Claim,
        process: Job,
        run_dir: RunDir,
        tail: MetricsTail,
        lease: LeaseKeeper,
        clock: WorkClock,
        stopping: threading.Event,
    ) -> None:
        self._database = database
        self._settings = settings
        self._claim = claim
        self._process = process
        self._run_dir = run_dir
        self._notice_recorded = False
        self._checkpoint = ""
        self._tail = tail
        self._unsaved = PendingMetrics()
        self._tail_ready = False  # it is known which lines the database has
        self._lease = lease
        self._clock = clock
        self._stopping = stopping
        self._progress = ProgressDeadline(settings.hung_seconds)
        self._stop_reason: StopReason | None = None
        self._hang = self._loss = ""

    def until_exit(self) -> ProcessExit:
        """Raises: StaleLease, after the process has been killed because the lease was lost."""
        self._clock.start()
        with self._lease.protect(self._process):
            status = self._until_status()
        self._tail.reopen()
        self._lease.persist(self._exchange)
        while self._tail.more and self._stop_reason is not StopReason.DETACHED:
            self._lease.persist(self._exchange)
        if self._lease.ended_process and self._stop_reason is None:
            self._stop_reason = StopReason.DATABASE
        job = self._process
        return ProcessExit(status, self._stop_reason, job.log_start, self._hang, self._loss, job.log_file)

    def _until_status(self) -> int:
        """Exit status, or 0 where this worker leaves and the processes continue. Raises: StaleLease."""
        try:
            while (status := self._process.wait(self._settings.watch_seconds)) is None:
                self._check()
                if self._stop_reason is StopReason.DETACHED:
                    return ExitCode.OK
        except MachineLost as error:
            log.warning("machine_lost", problem=str(error))
            self._loss = str(error)
            self._stop_reason = self._stop_reason or StopReason.MACHINE
            return self._process.kill()
        return status

    def _check(self) -> None:
        if self._tail_ready:
            self._unsaved.read_from(self._tail)
        if self._process.is_paused:
            self._clock.pause()
        else:
            self._clock.start()
            self._progress.observe(self._unsaved.count, self._run_dir)
        state = None
        try:
            self._lease.check()
            state = self._exchange()
        except StaleLease:
            self._process.kill()
            raise
        except UNREACHABLE as error:
            log_database_error(error)
        self._decide(state)

    def _exchange(self) -> State:
        """Write metrics, notice and checkpoint to the database; read the run's state. Raises: StaleLease.

        Only a part of many metric lines, so that no transaction is long; ``_tail.more`` then is True.
        """
        if not self._tail_ready:
            with self._database.reading() as session:
                self._tail.skip_stored(stored_metrics_marks(session, self._claim))
            self._tail_ready = True
        self._unsaved.read_from(self._tail)
        notice, checkpoint = self._read_notice(), newest_checkpoint(self._run_dir.checkpoints)
        if not self._unsaved and not notice and checkpoint == self._checkpoint:
            with self._database.reading() as session:
                return check_lease(session, self._claim)
        with self._database.session() as session:
            if self._unsaved:
                record_metrics(
                    session,
                    self._claim,
                    self._unsaved.lines,
                    rewound=self._unsaved.rewound,
                    last_step=self._tail.last_step,
                    marks=self._tail.marks,
                    is_newest=not self._tail.more,
                )
            if notice:
                record_interruption(session, self._claim, notice)
            record_checkpoint(session, self._claim, checkpoint)
            state = check_lease(session, self._claim)
        self._unsaved.clear()
        self._tail.record_stored()
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
            self._detach_or_stop(state)
        elif limit is not None and self._clock.seconds > limit:
            self._stop(StopReason.TIMEOUT)
        elif self._progress.exceeded:
            self._stop_hung()

    def _stop_hung(self) -> None:
        """A hung process would not write a checkpoint: it is killed once its stacks are known."""
        self._stop_reason = StopReason.HUNG
        dumped = self._process.dump_stacks()
        self._hang = f"{self._progress.describe()}; {dumped}"
        log.warning("job_hung", problem=self._hang)
        self._process.kill()

    def _detach_or_stop(self, state: State | None) -> None:
        """The worker stops: the processes continue if another worker can re-attach, else they save their state."""
        if state is State.RUNNING and self._process.detach():
            self._stop_reason = StopReason.DETACHED
        else:
            self._stop(StopReason.SHUTDOWN)

    def _stop(self, reason: StopReason) -> None:
        log.info("stop_requested", reason=reason.value)
        self._stop_reason = reason
        self._lease.end_process(self._settings.cancel_grace_seconds)
