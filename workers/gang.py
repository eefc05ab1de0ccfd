"""Runs of several nodes. Node 0 holds the lease and publishes the rendezvous; the other nodes hold member leases."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from itertools import chain
from typing import Any

import psutil
import structlog
from sqlalchemy import make_url
from sqlalchemy.orm import Session

from lcl_core.common.errors import UserError
from lcl_core.common.gpus import visible_devices_env
from lcl_core.common.logging import log_database_error
from lcl_core.common.rendezvous import NodeInfo, reserve_port
from lcl_core.common.run_dir import ExitCode, RunDir
from lcl_core.db.artifacts import Artifacts
from lcl_core.db.complete_run import RunFailed, RunOutcome
from lcl_core.db.gang import (
    MemberFailure,
    MemberLease,
    Rendezvous,
    check_member_lease,
    gang_hosts,
    member_failures,
    record_member_exit,
    release_member,
    renew_member_lease,
    set_rendezvous,
)
from lcl_core.db.leases import Claim, StaleLease
from lcl_core.db.queue import claim_next
from lcl_core.db.session import UNREACHABLE, Database
from lcl_core.db.workers import WorkerIdentity
from workers.executors.base import Executor, Job, JobRequest
from workers.executors.local import LocalExecutor
from workers.exit_outcome import (
    ProcessExit,
    Requeue,
    StopReason,
    classify_error,
    classify_exit,
    os_error_failure,
)
from workers.failure_table import RULES, Policy
from workers.lease_keeper import AttemptInterrupted, LeaseKeeper
from workers.node_checkpoints import copier_class, prepared_node
from workers.remote_checkpoints import copied_checkpoints
from workers.settings import WorkerSettings

AttemptOutcome = RunOutcome | Requeue
_DISCARD_PORT = 9  # nothing is sent: connecting a UDP socket makes the system choose a local address
_BEYOND_THIS_MACHINE = ("192.0.2.1", "2001:db8::1")  # for documentation: only the default route leads to them
_IP = (socket.AF_INET, socket.AF_INET6)
log = structlog.get_logger(__name__)


@contextmanager
def published_rendezvous(
    database: Database, settings: WorkerSettings, claim: Claim, lease: LeaseKeeper
) -> Iterator[dict[str, str]]:
    """Publish the rendezvous address of the nodes, once RUN_DIR is ready; its port stays reserved until the block ends.

    Yields: environment variables for the process of node 0; none where no other worker has a node.

    Raises: StaleLease, UNREACHABLE, OSError; UserError ``no_worker_address``.
    """
    if not claim.is_gang:
        yield {}
        return

    def find_hosts() -> set[str]:
        with database.reading() as session:
            return gang_hosts(session, claim)

    hosts = lease.persist(find_hosts)
    address = advertised_address(settings.worker_address, settings.resolved_database_url, hosts)
    with reserve_port() as reserved:
        node = NodeInfo(0, claim.nodes, address, reserved.getsockname()[1], settings.gang_seconds)

        def publish() -> None:
            with database.session() as session:
                set_rendezvous(session, claim, node.address)

        lease.persist(publish)
        yield gang_env(settings, node)


def gang_env(settings: WorkerSettings, node: NodeInfo) -> dict[str, str]:
    """What tells a run's process which of several nodes it is, and which network interface to use if one is named."""
    interface = settings.worker_address if settings.worker_address in psutil.net_if_addrs() else ""
    names = {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface} if interface else {}
    return node.to_env() | names


def advertised_address(configured: str, database_url: str, hosts: Collection[str]) -> str:
    """Address by which the other nodes reach this machine.

    The configured address, or that of the configured interface; loopback if all nodes are on this host. Else the first
    that is not loopback: of the route to the database, of the default route, of the interfaces.

    Args:
        hosts: names of the hosts of all nodes.

    Raises: UserError ``no_worker_address``.
    """
    interfaces = {name: [entry.address for entry in entries] for name, entries in _ip_addresses().items()}
    if configured:
        return interfaces.get(configured, [configured])[0]
    if len(hosts) == 1:
        return "127.0.0.1"
    routes = (_source_address(host) for host in (make_url(database_url).host, *_BEYOND_THIS_MACHINE))
    for address in (*routes, *chain.from_iterable(interfaces.values())):
        if address and not ip_address(address.partition("%")[0]).is_loopback:
            return address
    raise UserError(
        "this machine has no address by which the other nodes of the run reach it; set LCL_WORKER_ADDRESS of its "
        "worker to an address or a network interface",
        code="no_worker_address",
    )


def _ip_addresses() -> dict[str, list[Any]]:
    """Addresses by interface, IPv4 first, without those that are valid on one link only."""
    found = {}
    for name, entries in psutil.net_if_addrs().items():
        usable = [entry for entry in entries if entry.family in _IP and not entry.address.startswith("fe80:")]
        if usable:
            found[name] = sorted(usable, key=lambda entry: _IP.index(entry.family))
    return found


def _source_address(host: str | None) -> str | None:
    """This machine's address on the route to ``host``; None: there is no route, or ``host`` is a local socket."""
    if not host or host.startswith("/"):
        return None
    try:
        family, kind, _, _, target = socket.getaddrinfo(host, _DISCARD_PORT, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(target)
            address: str = probe.getsockname()[0]
            return address
    except OSError:
        return None


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


def _describe_failure(claim: Claim, outcome: AttemptOutcome) -> MemberFailure | None:
    """Failure of a node above 0."""
    where = f"node {claim.node} on {claim.worker}"
    if isinstance(outcome, Requeue):
        return MemberFailure(claim.worker, f"{where}: {outcome.cause}", outcome.uses_attempt, code=outcome.rule.cause)
    if isinstance(outcome, RunFailed):
        message = f"{where}: {outcome.reason['message']}"
        return MemberFailure(claim.worker, message, reason={**outcome.reason, "message": message})
    return None


class GangMember:
    """Runs the nodes after the first, whose worker holds the run's lease. Thread-safe.

    Args:
        worker: this worker, which claims runs that come before a run that it waits for.
        executor: where its processes run; None: on this machine.
    """

    def __init__(
        self,
        database: Database,
        settings: WorkerSettings,
        modules: Mapping[str, str],
        worker: WorkerIdentity,
        executor: Executor | None = None,
    ) -> None:
        self._database = database
        self._settings = settings
        self._modules = modules
        self._worker = worker
        self._executor: Executor = executor or LocalExecutor(settings)
        self._artifacts = Artifacts(settings)

    def run(self, lease: MemberLease, stopping: threading.Event) -> Claim | MemberLease | None:
        """Hold the member lease until the attempt is over, or the worker is needed elsewhere before it begins.

        Returns: what the worker has claimed instead.
        """

        def renew(session: Session) -> None:
            renew_member_lease(session, lease, self._settings.lease_seconds)

        try:
            with LeaseKeeper(self._database, self._settings, lease.run_id, renew, stopping) as keeper:
                found = self._await_rendezvous(lease, keeper, stopping)
                if isinstance(found, Rendezvous):
                    failure = self._try_work(found, lease, keeper, stopping)
                    keeper.persist(lambda: self._record_exit(lease, failure))
                    return None
            if found is not None:
                return found
        except (StaleLease, AttemptInterrupted):
            log.info("member_lease_lost")
        except UNREACHABLE as error:
            log_database_error(error)  # the member lease expires
            return None
        self._release(lease)
        return None

    def _await_rendezvous(
        self, lease: MemberLease, keeper: LeaseKeeper, stopping: threading.Event
    ) -> Rendezvous | Claim | MemberLease | None:
        """Wait for the other workers, unless another run comes first.

        Returns: the rendezvous; or what was claimed instead, the membership given up; or None: the worker stops, or too
        few workers are alive and nothing else is queued. Raises: StaleLease.
        """
        reconsider_at = time.monotonic() + self._settings.reap_seconds
        while not stopping.is_set():
            rendezvous = self._check(lease, keeper)
            if rendezvous is not None:
                return rendezvous
            if time.monotonic() > reconsider_at:
                chosen = self._reconsider(lease)
                if chosen != lease:
                    return chosen
                reconsider_at = time.monotonic() + self._settings.reap_seconds
            stopping.wait(self._settings.watch_seconds)
        return None

    def _reconsider(self, lease: MemberLease) -> Claim | MemberLease | None:
        """The membership itself, or what this worker is to do before its gang is complete."""
        worker, seconds = self._worker, self._settings.lease_seconds
        try:
            with self._database.session() as session:
                return claim_next(session, worker.id, seconds, worker.offers, worker.gpu_ids, seat=lease)
        except UNREACHABLE as error:
            log_database_error(error)
            return lease

    def _try_work(
        self, rendezvous: Rendezvous, lease: MemberLease, keeper: LeaseKeeper, stopping: threading.Event
    ) -> MemberFailure | None:
        """Failure of this node, also one of its worker. Raises: StaleLease, AttemptInterrupted, UNREACHABLE."""
        claim = rendezvous.claim
        try:
            return self._work(rendezvous, lease, keeper, stopping)
        except (StaleLease, AttemptInterrupted, *UNREACHABLE):
            raise
        except UserError as error:
            return _describe_failure(claim, classify_error(error.to_dict()))
        except OSError as error:
            log.exception("member_failed")
            reason = os_error_failure(error, self._settings.runs_dir.resolve() / claim.run_id).reason
        except Exception as error:
            log.exception("member_failed")
            message = f"the worker could not supervise its process ({error!r}); its log has the traceback"
            reason = {"code": "internal", "message": message}
        message = f"node {claim.node} on {claim.worker}: {reason['message']}"
        return MemberFailure(claim.worker, message, reason={**reason, "message": message})

    def _work(
        self, rendezvous: Rendezvous, lease: MemberLease, keeper: LeaseKeeper, stopping: threading.Event
    ) -> MemberFailure | None:
        """Run this node's process. Returns: its failure, if any. Raises: StaleLease, after killing the process."""
        claim = rendezvous.claim
        run_dir = RunDir(self._settings.runs_dir.resolve() / claim.run_id)
        run_dir.log_file = run_dir.artifacts / f"log-{claim.node}.txt"  # the run's own log is node 0's
        title = f"attempt {claim.attempt} on {claim.worker}, node {claim.node} of {claim.nodes}"
        node = NodeInfo.at(rendezvous.address, claim.node, claim.nodes, self._settings.gang_seconds)
        env = gang_env(self._settings, node) | visible_devices_env(claim.devices)
        where = self._database, self._settings, self._artifacts, claim, run_dir
        with prepared_node(*where, keeper):
            keeper.confirm()
            request = JobRequest(self._modules[claim.kind], run_dir, title, self._settings.protocols, env)
            with (
                self._executor.start(request, lambda _: None) as process,
                copied_checkpoints(*where, copier_class(claim)) as finish_copies,
            ):
                log.info("started", kind=claim.kind, attempt=claim.attempt, node=claim.node, **process.identity)
                exited = self._until_exit(process, lease, keeper, stopping)
                finish_copies()
        log.info("job_exited", status=exited.status)
        if exited.status == ExitCode.OK:
            return None
        return _describe_failure(claim, classify_exit(claim, run_dir, exited))

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
        self, process: Job, lease: MemberLease, keeper: LeaseKeeper, stopping: threading.Event
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
