"""Watching one process: metrics out, lease renewed, and the requests that end it."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import structlog

from lcl_core.rundir import RunDir
from lcl_core.runs.database import UNREACHABLE, Database
from lcl_core.runs.store import Claim, Loss, StaleLease, State, look, losses, note_interruption, record_metrics, renew
from workers.logs import log_database_error
from workers.settings import WorkerSettings
from workers.tail import MetricsTail, Unsaved
from workers.trainer import Trainer
from workers.verdict import Ending, Exited

log = structlog.get_logger(__name__)
SAFETY = 0.8  # of a lease's length: by then, without a renewal, the process must be gone


class Watch:
    """Looks at a trainer every ``watch_seconds`` until it has left.

    Args:
        stopping: set when the worker is leaving.
    """

    def __init__(
        self,
        database: Database,
        settings: WorkerSettings,
        claim: Claim,
        trainer: Trainer,
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
        self._unsaved = Unsaved()
        self._stopping = stopping
        self._started = self._renewed = time.monotonic()
        self._ending: Ending | None = None
        self._kill_at = float("inf")
        self._losses: list[Loss] = []  # of other nodes

    @property
    def ran_seconds(self) -> float:
        """Work on the run so far, earlier attempts too."""
        return self._claim.ran_seconds + time.monotonic() - self._started

    def until_exit(self) -> Exited:
        """Raises: StaleLease, once the process has been killed because the run is no longer ours."""
        while (status := self._trainer.wait(self._settings.watch_seconds)) is None:
            self._look()
            if time.monotonic() > self._kill_at:
                log.warning("grace_over", ending=self._ending)
                status = self._trainer.kill()
                break
        self._drain()
        return Exited(status, self._ending, self._trainer.log_start)

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
        return time.monotonic() > self._renewed + SAFETY * self._settings.lease_seconds

    def _exchange(self) -> State:
        """Tell the database what is new, and learn the run's state."""
        self._unsaved.take(self._tail)
        renewal = time.monotonic()
        notice = self._notice()
        if not self._unsaved and not notice and renewal < self._renewed + self._settings.heartbeat_seconds:
            with self._database.reading() as session:
                self._losses, _ = losses(session, self._claim)
                return look(session, self._claim)
        with self._database.session() as session:
            if self._unsaved:
                record_metrics(session, self._claim, self._unsaved.lines, rewound=self._unsaved.rewound)
            if notice:
                note_interruption(session, self._claim, notice)
            self._losses, _ = losses(session, self._claim)
            state = renew(session, self._claim, self._settings.lease_seconds, self.ran_seconds)
        self._unsaved = Unsaved()
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
            self._ask(Ending.CANCEL)
        elif state is State.PAUSING:
            self._ask(Ending.PAUSE)
        elif self._stopping.is_set():
            self._ask(Ending.SHUTDOWN)
        elif limit is not None and self.ran_seconds > limit:
            self._ask(Ending.TIMEOUT)
        elif self._losses:
            self._follow()

    def _follow(self) -> None:
        """Another node has ended. If that was in order, its ranks have told ours, which leave by themselves."""
        log.warning("node_lost", told=[loss.message for loss in self._losses])
        self._ending = Ending.NODE
        lost = any(loss.uses_attempt for loss in self._losses)
        self._kill_at = time.monotonic() + (0.0 if lost else self._settings.cancel_grace_seconds)

    def _ask(self, ending: Ending) -> None:
        log.info("asked_to_leave", ending=ending.value)
        self._ending = ending
        self._kill_at = time.monotonic() + self._settings.cancel_grace_seconds
        self._trainer.terminate()
