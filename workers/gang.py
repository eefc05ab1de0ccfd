"""Runs of several nodes. Node 0 holds the lease and publishes the rendezvous; the other nodes hold member leases."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping, Sequence

import structlog
from sqlalchemy import make_url

from lcl_core.common.run_dir import ExitCode, RunDir
from lcl_core.db.complete_run import RunFailed, RunOutcome
from lcl_core.db.gang import (
    MemberFailure,
    MemberLease,
    Rendezvous,
    check_member_lease,
    member_failures,
    record_member_exit,
    release_member,
    renew_member_lease,
    set_rendezvous,
)
from lcl_core.db.leases import Claim, StaleLease, renew_lease
from lcl_core.db.session import UNREACHABLE, Database
from workers.executors.local import JobProcess, device_env
from workers.exit_outcome import ProcessExit, Requeue, StopReason, classify_exit
from workers.logs import log_database_error
from workers.monitor import LEASE_SAFETY
from workers.settings import WorkerSettings

AttemptOutcome = RunOutcome | Requeue
_DISCARD_PORT = 9  # nothing is sent there: it only makes the system choose a way


def publish_rendezvous(database: Database, settings: WorkerSettings, claim: Claim) -> dict[str, str]:
    """Tell the others where all meet, once the run's folder is ready; nothing to do for a run of one node.

    Returns: what the process of node 0 needs in its environment. Raises: StaleLease, UNREACHABLE.
    """
    if claim.nodes == 1:
        return {}
    host = settings.worker_address or local_address(settings.resolved_database_url)
    address = f"{host}:{_free_port()}"
    with database.session() as session:
        set_rendezvous(session, claim, address)
    return gang_env(claim, address)


def gang_env(claim: Claim, address: str) -> dict[str, str]:
    """What tells a run's process which of several nodes it is (``lcl_core.train.launch``)."""
    return {"LCL_NODES": str(claim.nodes), "LCL_NODE": str(claim.node), "LCL_MEETING": address}


def local_address(database_url: str) -> str:
    """By which other workers reach this machine: the one that leads to the database; this machine's own without one."""
    host = make_url(database_url).host
    if not host or host.startswith("/"):
        return "127.0.0.1"
    family, kind, protocol, _, target = socket.getaddrinfo(host, _DISCARD_PORT, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(target)
        address: str = probe.getsockname()[0]
        return address


def is_secondary_failure(run_dir: RunDir, exited: ProcessExit) -> bool:
    """Whether node 0 may have ended only because another node had: what it says of itself is then not the cause."""
    if run_dir.result_file.exists() or run_dir.error_file.exists():
        return False
    by_itself = exited.ending is None and exited.status in (ExitCode.CRASH, ExitCode.CANCELLED)
    return by_itself or exited.ending is StopReason.NODE


def combine_outcomes(database: Database, settings: WorkerSettings, claim: Claim, own: AttemptOutcome) -> AttemptOutcome:
    """What the end of all nodes means, ``own`` being what node 0 alone would say.

    Waits until the others have told how they ended, or a lease's length. Raises: StaleLease.
    """
    found: list[MemberFailure] = []
    deadline = time.monotonic() + settings.lease_seconds
    while time.monotonic() < deadline:
        try:
            with database.session() as session:
                renew_lease(session, claim, settings.lease_seconds)
                found, complete = member_failures(session, claim)
        except UNREACHABLE:
            complete = False
        if complete or any(_is_root_cause(loss) for loss in found):
            break
        time.sleep(settings.watch_seconds)
    return _root_cause(found, own)


def _is_root_cause(loss: MemberFailure) -> bool:
    """A crash may be an echo as well; a lost worker, a signal, or too little memory is a cause."""
    return loss.reason is None or loss.reason["code"] != "crash"


def _root_cause(found: Sequence[MemberFailure], own: AttemptOutcome) -> AttemptOutcome:
    causes = sorted((loss for loss in found if _is_root_cause(loss)), key=lambda loss: loss.reason is not None)
    if causes:
        first = causes[0]
        return RunFailed(first.reason) if first.reason else Requeue(first.uses_attempt, first.message)
    if isinstance(own, RunFailed) and found:
        return RunFailed(
            {**own.reason, "message": "; ".join([own.reason["message"], *(loss.message for loss in found)])}
        )
    if isinstance(own, Requeue) and found and found[0].reason:  # node 0 was ended because the other had crashed
        return RunFailed(found[0].reason)
    return own


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port


log = structlog.get_logger(__name__)


class GangMember:
    """Every node of a run but the first, whose worker holds the lease. Safe to use from several threads."""

    def __init__(self, database: Database, settings: WorkerSettings, modules: Mapping[str, str]) -> None:
        self._database = database
        self._settings = settings
        self._modules = modules

    def run(self, seat: MemberLease, stopping: threading.Event) -> str | None:
        """Keep the seat until the attempt is over, or the others do not come.

        Returns: in that case the run's id, so that other runs go first once.
        """
        try:
            call = _MemberHeartbeat(self._database, self._settings, seat).await_call(stopping)
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

    def _work(self, call: Rendezvous, seat: MemberLease, stopping: threading.Event) -> MemberFailure | None:
        """How this node ended, None: in order. Raises: StaleLease, once its process has been killed."""
        claim = call.claim
        run_dir = RunDir(self._settings.runs_dir.resolve() / claim.run_id)
        run_dir.log_file = run_dir.artifacts / f"log-{claim.node}.txt"  # the run's own log is node 0's
        title = f"attempt {claim.attempt} on {claim.worker}, node {claim.node} of {claim.nodes}"
        more = gang_env(claim, call.address) | device_env(claim)
        with JobProcess(self._modules[claim.kind], run_dir, title, self._settings.protocols, more) as trainer:
            log.info("started", kind=claim.kind, attempt=claim.attempt, node=claim.node, pid=trainer.pid)
            exited = _MemberHeartbeat(self._database, self._settings, seat).until_exit(trainer, stopping)
        log.info("left", status=exited.status)
        if exited.status == ExitCode.OK:
            return None
        verdict = classify_exit(claim, run_dir, exited)
        where = f"node {claim.node} on {claim.worker}"
        if isinstance(verdict, Requeue):
            return MemberFailure(claim.worker, f"{where}: {verdict.cause}", verdict.uses_attempt)
        if isinstance(verdict, RunFailed):
            message = f"{where}: {verdict.reason['message']}"
            return MemberFailure(claim.worker, message, reason={**verdict.reason, "message": message})
        return None

    def _tell(self, seat: MemberLease, loss: MemberFailure | None) -> None:
        with self._database.session() as session:
            record_member_exit(session, seat, loss)

    def _leave(self, seat: MemberLease) -> None:
        try:
            with self._database.session() as session:
                release_member(session, seat)
        except UNREACHABLE as error:
            log_database_error(error)


class _MemberHeartbeat:
    """Renews one seat, and looks whether it still is one."""

    def __init__(self, database: Database, settings: WorkerSettings, seat: MemberLease) -> None:
        self._database = database
        self._settings = settings
        self._seat = seat
        self._renewed = time.monotonic()

    def await_call(self, stopping: threading.Event) -> Rendezvous | None:
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

    def until_exit(self, trainer: JobProcess, stopping: threading.Event) -> ProcessExit:
        """Raises: StaleLease when the attempt is over for all; the caller ends the process."""
        ending, kill_at = None, float("inf")
        while (status := trainer.wait(self._settings.watch_seconds)) is None:
            self._look()
            if stopping.is_set() and ending is None:
                # all nodes leave after the same step, with a checkpoint
                ending, kill_at = StopReason.SHUTDOWN, time.monotonic() + self._settings.cancel_grace_seconds
                trainer.terminate()
            if time.monotonic() > kill_at:
                status = trainer.kill()
                break
        return ProcessExit(status, ending, trainer.log_start)

    def _look(self) -> Rendezvous | None:
        started = time.monotonic()
        try:
            if started > self._renewed + self._settings.heartbeat_seconds:
                with self._database.session() as session:
                    renew_member_lease(session, self._seat, self._settings.lease_seconds)
                self._renewed = started
            with self._database.reading() as session:
                return check_member_lease(session, self._seat)
        except UNREACHABLE as error:
            log_database_error(error)
            if started > self._renewed + LEASE_SAFETY * self._settings.lease_seconds:
                raise StaleLease(self._seat.run_id) from error
            return None

    def _given_up(self) -> bool:
        """Leave, unless the last of the others has come at this very moment."""
        try:
            with self._database.session() as session:
                return release_member(session, self._seat, only_waiting=True)
        except UNREACHABLE:
            return False
