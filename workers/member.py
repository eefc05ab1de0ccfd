"""A seat at a run of several nodes: waiting for the others, then one process of the run, as long as all are there."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

import structlog

from lcl_core.rundir import Exit, RunDir
from lcl_core.runs.database import UNREACHABLE, Database
from lcl_core.runs.store import (
    Call,
    Failed,
    Loss,
    SeatClaim,
    StaleLease,
    end_seat,
    leave_seat,
    look_at_seat,
    renew_seat,
)
from workers.environment import devices_of
from workers.logs import log_database_error
from workers.nodes import environment_of
from workers.settings import WorkerSettings
from workers.trainer import Trainer
from workers.verdict import Ending, Exited, HandBack, judge
from workers.watch import SAFETY

log = structlog.get_logger(__name__)


class Member:
    """Every node of a run but the first, whose worker holds the lease. Safe to use from several threads."""

    def __init__(self, database: Database, settings: WorkerSettings, modules: Mapping[str, str]) -> None:
        self._database = database
        self._settings = settings
        self._modules = modules

    def run(self, seat: SeatClaim, stopping: threading.Event) -> str | None:
        """Keep the seat until the attempt is over, or the others do not come.

        Returns: in that case the run's id, so that other runs go first once.
        """
        try:
            call = _Keeper(self._database, self._settings, seat).await_call(stopping)
            if call is not None:
                self._tell(seat, self._work(call, seat, stopping))
                return None
        except StaleLease:
            log.info("seat_lost")
        except UNREACHABLE as error:
            log_database_error(error)  # the seat runs out
            return None
        self._leave(seat)
        return seat.run_id

    def _work(self, call: Call, seat: SeatClaim, stopping: threading.Event) -> Loss | None:
        """How this node ended, None: in order. Raises: StaleLease, once its process has been killed."""
        claim = call.claim
        run_dir = RunDir(self._settings.runs_dir.resolve() / claim.run_id)
        run_dir.log_file = run_dir.artifacts / f"log-{claim.node}.txt"  # the run's own log is node 0's
        title = f"attempt {claim.attempt} on {claim.worker}, node {claim.node} of {claim.nodes}"
        more = environment_of(claim, call.address) | devices_of(claim)
        with Trainer(self._modules[claim.kind], run_dir, title, self._settings.protocols, more) as trainer:
            log.info("started", kind=claim.kind, attempt=claim.attempt, node=claim.node, pid=trainer.pid)
            exited = _Keeper(self._database, self._settings, seat).until_exit(trainer, stopping)
        log.info("left", status=exited.status)
        if exited.status == Exit.OK:
            return None
        verdict = judge(claim, run_dir, exited)
        where = f"node {claim.node} on {claim.worker}"
        if isinstance(verdict, HandBack):
            return Loss(claim.worker, f"{where}: {verdict.cause}", verdict.uses_attempt)
        if isinstance(verdict, Failed):
            message = f"{where}: {verdict.reason['message']}"
            return Loss(claim.worker, message, reason={**verdict.reason, "message": message})
        return None

    def _tell(self, seat: SeatClaim, loss: Loss | None) -> None:
        with self._database.session() as session:
            end_seat(session, seat, loss)

    def _leave(self, seat: SeatClaim) -> None:
        try:
            with self._database.session() as session:
                leave_seat(session, seat)
        except UNREACHABLE as error:
            log_database_error(error)


class _Keeper:
    """Renews one seat, and looks whether it still is one."""

    def __init__(self, database: Database, settings: WorkerSettings, seat: SeatClaim) -> None:
        self._database = database
        self._settings = settings
        self._seat = seat
        self._renewed = time.monotonic()

    def await_call(self, stopping: threading.Event) -> Call | None:
        """None: the worker is leaving, or the others did not come in time. Raises: StaleLease."""
        deadline = time.monotonic() + self._settings.gang_seconds
        while not stopping.is_set():
            call = self._look()
            if call is not None:
                return call
            if time.monotonic() > deadline and self._given_up():
                log.info("the_others_did_not_come", seconds=self._settings.gang_seconds)
                return None
            stopping.wait(self._settings.watch_seconds)
        return None

    def until_exit(self, trainer: Trainer, stopping: threading.Event) -> Exited:
        """Raises: StaleLease when the attempt is over for all; the caller ends the process."""
        ending, kill_at = None, float("inf")
        while (status := trainer.wait(self._settings.watch_seconds)) is None:
            self._look()
            if stopping.is_set() and ending is None:
                # all nodes leave after the same step, with a checkpoint
                ending, kill_at = Ending.SHUTDOWN, time.monotonic() + self._settings.cancel_grace_seconds
                trainer.terminate()
            if time.monotonic() > kill_at:
                status = trainer.kill()
                break
        return Exited(status, ending, trainer.log_start)

    def _look(self) -> Call | None:
        started = time.monotonic()
        try:
            if started > self._renewed + self._settings.heartbeat_seconds:
                with self._database.session() as session:
                    renew_seat(session, self._seat, self._settings.lease_seconds)
                self._renewed = started
            with self._database.reading() as session:
                return look_at_seat(session, self._seat)
        except UNREACHABLE as error:
            log_database_error(error)
            if started > self._renewed + SAFETY * self._settings.lease_seconds:
                raise StaleLease(self._seat.run_id) from error
            return None

    def _given_up(self) -> bool:
        """Leave, unless the last of the others has come at this very moment."""
        try:
            with self._database.session() as session:
                return leave_seat(session, self._seat, only_waiting=True)
        except UNREACHABLE:
            return False
