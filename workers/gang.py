"""Runs of several nodes. Node 0 holds the lease and publishes the rendezvous; the other nodes hold member leases."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping, Sequence

import structlog
from sqlalchemy import make_url
from sqlalchemy.orm import Session

from lcl_core.common.gpus import visible_devices_env
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
from lcl_core.db.leases import Claim, StaleLease
from lcl_core.db.session import UNREACHABLE, Database
from workers.executors.local import JobProcess
from workers.exit_outcome import ProcessExit, Requeue, StopReason, classify_exit
from workers.failure_table import RULES, Policy
from workers.lease_keeper import AttemptInterrupted, LeaseKeeper
from workers.logs import log_database_error
from workers.settings import WorkerSettings

AttemptOutcome = RunOutcome | Requeue
_DISCARD_PORT = 9  # nothing is sent: connecting a UDP socket makes the system choose a local address
log = structlog.get_logger(__name__)


def publish_rendezvous(database: Database, settings: WorkerSettings, claim: Claim) -> dict[str, str]:
    """Publish the rendezvous address of the nodes, once RUN_DIR is ready. A run of one node needs none.

    Returns: environment variables for the process of node 0. Raises: StaleLease, UNREACHABLE.
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
    """Address by which other workers reach this machine: that of the route to the database; loopback without one."""
    host = make_url(database_url).host
    if not host or host.startswith("/"):
        return "127.0.0.1"
    family, kind, protocol, _, target = socket.getaddrinfo(host, _DISCARD_PORT, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(target)
        address: str = probe.getsockname()[0]
        return address


def is_secondary_failure(run_dir: RunDir, exited: ProcessExit) -> bool:
    """Whether node 0 may have ended only because another node had; its own outcome is then not the cause."""
    if run_dir.result_file.exists() or run_dir.error_file.exists():
        return False
    by_itself = exited.stop_reason is None and exited.status in (ExitCode.CRASH, ExitCode.CANCELLED)
    return by_itself or exited.stop_reason is StopReason.NODE


def combine_outcomes(
    database: Database, settings: WorkerSettings, claim: Claim, lease: LeaseKeeper, own: AttemptOutcome
) -> AttemptOutcome:
    """Outcome of a run of several nodes; ``own`` is that of node 0.

    Waits until the others have reported how they ended, a lease's length at most. Raises: StaleLease.
    """
    failures: list[MemberFailure] = []
    deadline = time.monotonic() + settings.lease_seconds
    while time.monotonic() < deadline:
        lease.check()
        try:
            with database.reading() as session:
                failures, complete = member_failures(session, claim, lease.answered_for(settings.lease_seconds))
        except UNREACHABLE:
            complete = False
        if complete or any(_is_root_cause(failure) for failure in failures):
            break
        time.sleep(settings.watch_seconds)
    return _root_cause(failures, own)


def _is_root_cause(failure: MemberFailure) -> bool:
    """A crash or a network error may be a consequence; a lost worker, a signal, or too little memory is a cause."""
    if failure.reason is None:
        return RULES[failure.code].policy is not Policy.DELAYED
    return failure.reason["code"] != "crash"


def _root_cause(failures: Sequence[MemberFailure], own: AttemptOutcome) -> AttemptOutcome:
    causes = sorted(filter(_is_root_cause, failures), key=lambda failure: failure.reason is not None)
    if causes:
        first = causes[0]
        return RunFailed(first.reason) if first.reason else Requeue.by(first.code, first.message)
    if isinstance(own, RunFailed) and failures:
        return RunFailed(
            {**own.reason, "message": "; ".join([own.reason["message"], *(failure.message for failure in failures)])}
        )
    if isinstance(own, Requeue) and failures and failures[0].reason:  # node 0 was ended because the other had crashed
        return RunFailed(failures[0].reason)
    return own


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port


class GangMember:
    """Runs the nodes after the first, whose worker holds the run's lease. Thread-safe."""

    def __init__(self, database: Database, settings: WorkerSettings, modules: Mapping[str, str]) -> None:
        self._database = database
        self._settings = settings
        self._modules = modules

    def run(self, lease: MemberLease, stopping: threading.Event) -> str | None:
        """Hold the member lease until the attempt is over.

        Returns: the run's id if the other nodes did not join in time, so that other runs go first once.
        """

        def renew(session: Session) -> None:
            renew_member_lease(session, lease, self._settings.lease_seconds)

        try:
            with LeaseKeeper(self._database, self._settings, lease.run_id, renew, stopping) as keeper:
                rendezvous = self._await_rendezvous(lease, keeper, stopping)
                if rendezvous is not None:
                    failure = self._work(rendezvous, lease, keeper, stopping)
                    keeper.persist(lambda: self._record_exit(lease, failure))
                    return None
        except (StaleLease, AttemptInterrupted):
            log.info("member_lease_lost")
        except UNREACHABLE as error:
            log_database_error(error)  # the member lease expires
            return None
        self._release(lease)
        return lease.run_id

    def _await_rendezvous(
        self, lease: MemberLease, keeper: LeaseKeeper, stopping: threading.Event
    ) -> Rendezvous | None:
        """Wait for the rendezvous. None: the worker stops, or the others did not join in time. Raises: StaleLease."""
        deadline = time.monotonic() + self._settings.gang_seconds
        while not stopping.is_set():
            rendezvous = self._check(lease, keeper)
            if rendezvous is not None:
                return rendezvous
            if time.monotonic() > deadline and self._release_waiting(lease):
                log.info("rendezvous_timed_out", seconds=self._settings.gang_seconds)
                return None
            stopping.wait(self._settings.watch_seconds)
        return None

    def _work(
        self, rendezvous: Rendezvous, lease: MemberLease, keeper: LeaseKeeper, stopping: threading.Event
    ) -> MemberFailure | None:
        """Run this node's process. Returns: its failure, if any. Raises: StaleLease, after killing the process."""
        claim = rendezvous.claim
        run_dir = RunDir(self._settings.runs_dir.resolve() / claim.run_id)
        run_dir.log_file = run_dir.artifacts / f"log-{claim.node}.txt"  # the run's own log is node 0's
        title = f"attempt {claim.attempt} on {claim.worker}, node {claim.node} of {claim.nodes}"
        env = gang_env(claim, rendezvous.address) | visible_devices_env(claim.devices)
        keeper.confirm()
        with JobProcess(self._modules[claim.kind], run_dir, title, self._settings.protocols, env) as process:
            log.info("started", kind=claim.kind, attempt=claim.attempt, node=claim.node, pid=process.pid)
            exited = self._until_exit(process, lease, keeper, stopping)
        log.info("job_exited", status=exited.status)
        if exited.status == ExitCode.OK:
            return None
        outcome = classify_exit(claim, run_dir, exited)
        where = f"node {claim.node} on {claim.worker}"
        if isinstance(outcome, Requeue):
            return MemberFailure(
                claim.worker, f"{where}: {outcome.cause}", outcome.uses_attempt, code=outcome.rule.cause
            )
        if isinstance(outcome, RunFailed):
            message = f"{where}: {outcome.reason['message']}"
            return MemberFailure(claim.worker, message, reason={**outcome.reason, "message": message})
        return None

    def _record_exit(self, lease: MemberLease, failure: MemberFailure | None) -> None:
        with self._database.session() as session:
            record_member_exit(session, lease, failure)

    def _release(self, lease: MemberLease) -> None:
        try:
            with self._database.session() as session:
                release_member(session, lease)
        except UNREACHABLE as error:
            log_database_error(error)

    def _until_exit(
        self, process: JobProcess, lease: MemberLease, keeper: LeaseKeeper, stopping: threading.Event
    ) -> ProcessExit:
        """Raises: StaleLease when the attempt is over for all nodes; the caller ends the process."""
        reason = None
        with keeper.protect(process):
            while (status := process.wait(self._settings.watch_seconds)) is None:
                self._check(lease, keeper)
                if stopping.is_set() and reason is None:
                    reason = StopReason.SHUTDOWN  # all nodes stop after the same step, with a checkpoint
                    keeper.end_process(self._settings.cancel_grace_seconds)
        if keeper.ended_process:
            reason = reason or StopReason.DATABASE
        return ProcessExit(status, reason, process.log_start)

    def _check(self, lease: MemberLease, keeper: LeaseKeeper) -> Rendezvous | None:
        """The rendezvous, if it is known. Raises: StaleLease."""
        keeper.check()
        try:
            with self._database.reading() as session:
                return check_member_lease(session, lease)
        except UNREACHABLE as error:
            log_database_error(error)
            return None

    def _release_waiting(self, lease: MemberLease) -> bool:
        """Release the lease, unless the last of the others has joined meanwhile."""
        try:
            with self._database.session() as session:
                return release_member(session, lease, only_waiting=True)
        except UNREACHABLE:
            return False
