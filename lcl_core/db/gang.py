"""Gang scheduling: a run of N nodes starts when N workers have joined.

Workers join one after the other and wait. The worker that completes the gang gets the run's lease and is node 0; the
others work under that lease. When the lease or a member is lost, the attempt ends for all members.

Reservation of workers for a run of several nodes, with backfill (EASY) by runs that end before its start.

The first queued run of several nodes that the live workers can serve reserves workers: each of them that becomes free
joins its gang and stays in it, unless a run of higher priority is queued. Every worker joins the first such run in one
order, so two gangs never wait for each other's workers. A worker runs something shorter first when the
``timeout_seconds`` of that run end before the expected start of the gang, for which other workers are missing anyway.

Lifka, "The ANL/IBM SP scheduling system", JSSPP 1995.
"""

from __future__ import annotations

import secrets
import statistics
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Float, Subquery, and_, delete, func, or_, select
from sqlalchemy.orm import Session

from lcl_core.db.leases import Claim, StaleLease
from lcl_core.db.models import GangMemberRow, Run, Worker
from lcl_core.db.session import now
from lcl_core.db.states import LEASED, State
from lcl_core.db.workers import ALIVE_WITHIN
from lcl_core.jobs import ANY_DEVICE

BACKFILL_DEPTH = 1000  # queued runs, first in order of priority and time, among which short ones are sought
_RECENT_RUNS = 20  # of a kind, whose median is the expected time of a run without timeout_seconds
_LEASED = [state.value for state in LEASED]


@dataclass(frozen=True)
class MemberLease:
    """A worker's membership in the gang of a run, valid while the worker renews it."""

    run_id: str
    token: str
    worker: str


@dataclass(frozen=True)
class Rendezvous:
    """The gang is complete and the run directory is ready: the process of this node may start."""

    claim: Claim  # of the run, with the number of this node
    address: str  # HOST:PORT of node 0


@dataclass(frozen=True)
class MemberFailure:
    """Failure of a node.

    Attributes:
        reason: {"code", "message", …} of a failure that another attempt would repeat.
    """

    worker: str
    message: str
    uses_attempt: bool = True
    reason: dict[str, Any] | None = None


def join_gang(
    session: Session, run_id: str, worker: str, lease_token: str, nodes: int, seconds: float
) -> MemberLease | None:
    """Join the gang of a run whose row the caller has locked.

    Returns: None when the gang is complete; all members work under ``lease_token`` then.
    """
    moment = now(session)
    replaced = or_(
        GangMemberRow.worker == worker, GangMemberRow.expires_at < moment, GangMemberRow.lease_token.is_not(None)
    )
    session.execute(delete(GangMemberRow).where(GangMemberRow.run_id == run_id, replaced))
    member = GangMemberRow(run_id=run_id, worker=worker, token=secrets.token_hex(16))
    member.expires_at = moment + timedelta(seconds=seconds)
    query = select(GangMemberRow).where(GangMemberRow.run_id == run_id).order_by(GangMemberRow.worker)
    others = session.scalars(query.with_for_update()).all()  # one that leaves meanwhile is waited for, and not found
    session.add(member)
    if len(others) + 1 < nodes:
        session.flush()
        return MemberLease(run_id, member.token, worker)
    for number, each in enumerate([member, *others]):
        each.number, each.lease_token = number, lease_token
    session.flush()
    return None


def check_member_lease(session: Session, membership: MemberLease) -> Rendezvous | None:
    """The rendezvous; None while members are missing or node 0 prepares.

    Raises: StaleLease when this member, or the gang's lease, has expired.
    """
    query = select(GangMemberRow, Run).join(Run, Run.id == GangMemberRow.run_id)
    row = session.execute(query.where(_is_member(membership))).tuples().one_or_none()
    if row is None:
        raise StaleLease(membership.run_id)
    member, run = row
    if member.lease_token is None and run.state == State.QUEUED:
        return None
    if member.lease_token is None or member.lease_token != run.lease_token:
        raise StaleLease(membership.run_id)
    leader = GangMemberRow.run_id == membership.run_id, GangMemberRow.number == 0
    address = session.scalars(select(GangMemberRow.address).where(*leader)).one_or_none()
    claim = Claim.of(run, member.lease_token, membership.worker, node=member.number or 0)
    return None if address is None else Rendezvous(claim, address)


def renew_member_lease(session: Session, membership: MemberLease, seconds: float) -> None:
    """Raises: StaleLease."""
    _lock_member(session, membership).expires_at = now(session) + timedelta(seconds=seconds)


def release_member(session: Session, membership: MemberLease, *, only_waiting: bool = False) -> bool:
    """Leave the gang.

    Args:
        only_waiting: only while members are missing.

    Returns: whether the member has left.
    """
    member = session.scalars(select(GangMemberRow).where(_is_member(membership)).with_for_update()).one_or_none()
    if member is None or (only_waiting and member.lease_token is not None):
        return False
    session.delete(member)
    return True


def record_member_exit(session: Session, membership: MemberLease, failure: MemberFailure | None) -> None:
    """Record for node 0 how the process of this node ended; None: it succeeded. Raises: StaleLease."""
    member = _lock_member(session, membership)
    member.ending = {}
    if failure is not None:
        member.ending = {"message": failure.message, "uses_attempt": failure.uses_attempt, "reason": failure.reason}


def set_rendezvous(session: Session, claim: Claim, address: str) -> None:
    """Publish the address of node 0 to the other nodes. Raises: StaleLease."""
    query = select(GangMemberRow).where(
        GangMemberRow.run_id == claim.run_id, GangMemberRow.lease_token == claim.token, GangMemberRow.number == 0
    )
    member = session.scalars(query.with_for_update()).one_or_none()
    if member is None:
        raise StaleLease(claim.run_id)
    member.address = address


def gang_hosts(session: Session, claim: Claim) -> set[str]:
    """Names of the hosts of all nodes, as far as their workers are alive."""
    query = select(Worker.host).join(GangMemberRow, GangMemberRow.worker == Worker.id)
    works = GangMemberRow.run_id == claim.run_id, GangMemberRow.lease_token == claim.token
    return set(session.scalars(query.where(*works)))


def member_failures(session: Session, claim: Claim) -> tuple[list[MemberFailure], bool]:
    """Failures and lost workers among the nodes above 0, and whether all these nodes have ended."""
    if claim.nodes == 1:
        return [], True
    query = select(GangMemberRow).where(
        GangMemberRow.run_id == claim.run_id, GangMemberRow.lease_token == claim.token, GangMemberRow.number > 0
    )
    members = session.scalars(query.order_by(GangMemberRow.number)).all()
    moment, failures = now(session), []
    for member in members:
        if member.ending:
            failures.append(MemberFailure(member.worker, **member.ending))
        elif member.ending is None and member.expires_at < moment:
            message = f"worker {member.worker}, node {member.number} of the run, was lost"
            failures.append(MemberFailure(member.worker, message))
    if len(members) < claim.nodes - 1:  # a row is missing only if its worker left before the start
        failures.append(MemberFailure("", "a worker left before the start", uses_attempt=False))
    succeeded = sum(member.ending == {} for member in members)
    return failures, len(failures) + succeeded >= claim.nodes - 1


def _lock_member(session: Session, membership: MemberLease) -> GangMemberRow:
    """Raises: StaleLease."""
    member = session.scalars(select(GangMemberRow).where(_is_member(membership)).with_for_update()).one_or_none()
    if member is None:
        raise StaleLease(membership.run_id)
    return member


def _is_member(membership: MemberLease) -> ColumnElement[bool]:
    return and_(GangMemberRow.run_id == membership.run_id, GangMemberRow.token == membership.token)


@dataclass(frozen=True)
class Reservation:
    """The run of several nodes that reserves a worker.

    Attributes:
        since: when its first worker joined; None: this worker is the first.
        owner_running: leased runs of its owner.
        window: seconds until its expected start, if this worker is free by then.
    """

    run_id: str
    priority: int
    queued_at: datetime
    since: datetime | None
    owner_running: int
    window: float

    def admits(self, owner_running: ColumnElement[int]) -> ColumnElement[bool]:
        """Condition on a queued run of one node: it goes before this run, or ends before its expected start.

        Args:
            owner_running: leased runs of the owner of that run.
        """
        before = Run.priority > self.priority
        if self.since is None:  # no worker waits yet, so the order among owners counts
            longer_queued = or_(
                Run.queued_at < self.queued_at, and_(Run.queued_at == self.queued_at, Run.id < self.run_id)
            )
            fewer = or_(owner_running < self.owner_running, and_(owner_running == self.owner_running, longer_queued))
            before = or_(before, and_(Run.priority == self.priority, fewer))
        if self.window <= 0:
            return before
        first = (
            select(Run.id)
            .where(Run.state == State.QUEUED.value, Run.nodes == 1)
            .order_by(Run.priority.desc(), Run.queued_at, Run.id)
            .limit(BACKFILL_DEPTH)
        )
        return or_(before, and_(Run.id.in_(first), _timeout() - Run.ran_seconds <= self.window))


def running_by_owner() -> Subquery:
    """``owner`` and the number ``runs`` of its leased runs."""
    query = select(Run.owner, func.count().label("runs")).where(Run.state.in_(_LEASED)).group_by(Run.owner)
    return query.subquery()


def can_serve(offers: Collection[str], resource: str) -> bool:
    """Whether a worker with these resources can run a run of that resource class."""
    return resource in (*offers, ANY_DEVICE)


def find_reservation(
    session: Session, worker_id: str, offers: Sequence[str], joined: str | None = None
) -> Reservation | None:
    """The run that reserves this worker; None: there is none, or the worker has no row yet.

    Args:
        joined: run whose gang the asking slot has joined. When another slot has joined one, no run reserves this slot.
    """
    gangs = _queued_gangs(session, offers)
    if not gangs:
        return None
    moment = now(session)
    workers = _live_workers(session, moment)
    this = next((worker for worker in workers if worker.id == worker_id), None)
    waiting = _waiting_members(session, moment)
    if this is None or any(worker_id in members for run_id, members in waiting.items() if run_id != joined):
        return None
    homes = {worker.id: worker.home for worker in workers}
    for gang, owner_running in gangs:
        members = waiting[gang.id]
        able = [worker for worker in workers if worker.home == this.home and can_serve(worker.offers, gang.resource)]
        elsewhere = any(homes.get(member, this.home) != this.home for member in members)
        if len(able) >= gang.nodes and not elsewhere:
            window = _seconds_until_start(session, gang, able, members - {worker_id}, this)
            return Reservation(gang.id, gang.priority, gang.queued_at, gang.reserved_at, owner_running, window)
    return None


def _queued_gangs(session: Session, offers: Sequence[str]) -> list[tuple[Run, int]]:
    """Queued runs of several nodes that a worker can serve, in the order in which they reserve; and their owners' runs.

    Those that reserve workers already come first among their priority: joined workers do not change over.
    """
    owners = running_by_owner()
    query = (
        select(Run, func.coalesce(owners.c.runs, 0))
        .outerjoin(owners, owners.c.owner == Run.owner)
        .where(Run.state == State.QUEUED.value, Run.nodes > 1, Run.resource.in_([*offers, ANY_DEVICE]))
        .execution_options(populate_existing=True)
    )
    gangs = [(run, running) for run, running in session.execute(query).tuples()]

    def order(entry: tuple[Run, int]) -> tuple[Any, ...]:
        run, running = entry
        turn = (0, run.reserved_at) if run.reserved_at else (1 + running, run.queued_at)
        return (-run.priority, *turn, run.id)

    return sorted(gangs, key=order)


class _LiveWorker(NamedTuple):
    id: str
    home: str | None
    offers: list[Any]
    slots: int


def _live_workers(session: Session, moment: datetime) -> list[_LiveWorker]:
    """Columns alone: the row's ``current_run`` is a query of its own for each worker."""
    query = select(Worker.id, Worker.home, Worker.offers, Worker.slots).where(Worker.seen_at >= moment - ALIVE_WITHIN)
    return [_LiveWorker(*columns) for columns in session.execute(query).tuples()]


def _waiting_members(session: Session, moment: datetime) -> dict[str, set[str]]:
    """{run: workers that have joined its gang and wait for the others}"""
    query = select(GangMemberRow.run_id, GangMemberRow.worker)
    rows = session.execute(query.where(GangMemberRow.lease_token.is_(None), GangMemberRow.expires_at >= moment))
    waiting: dict[str, set[str]] = defaultdict(set)
    for run_id, worker in rows.tuples():
        waiting[run_id].add(worker)
    return waiting


def _seconds_until_start(
    session: Session, gang: Run, able: Sequence[_LiveWorker], members: set[str], this: _LiveWorker
) -> float:
    """Seconds until enough workers are free, ``this`` being free at once."""
    missing = gang.nodes - len(members) - 1
    others = [worker for worker in able if worker.id not in members and worker.id != this.id]
    if missing <= 0:
        return 0.0
    ends = _remaining_by_worker(session, {worker.id for worker in others})
    free_in = (
        min(ends[worker.id]) if len(ends[worker.id]) >= worker.slots else 0.0 for worker in others
    )  # with a free slot a worker is about to join
    return sorted(free_in)[missing - 1]


def _remaining_by_worker(session: Session, workers: Collection[str]) -> dict[str, list[float]]:
    """{worker: expected seconds to the end of each of its runs and nodes}; 0 where nothing is known of the run."""
    columns = (Run.id, Run.kind, Run.lease_owner, Run.ran_seconds, _timeout())
    leased = session.execute(select(*columns).where(Run.state.in_(_LEASED))).tuples().all()
    typical = _typical_seconds(session, {kind for _, kind, _, _, timeout in leased if timeout is None})
    remaining = {
        run_id: max(0.0, (typical.get(kind, 0.0) if timeout is None else timeout) - ran)
        for run_id, kind, _, ran, timeout in leased
    }
    at_work = [(owner, run_id) for run_id, _, owner, _, _ in leased if owner is not None]
    ends: dict[str, list[float]] = defaultdict(list)
    for worker, run_id in [*at_work, *_working_members(session)]:
        if worker in workers:
            ends[worker].append(remaining.get(run_id, 0.0))
    return ends


def _working_members(session: Session) -> Sequence[tuple[str, str]]:
    """(worker, run) of the nodes above 0 that work."""
    query = select(GangMemberRow.worker, GangMemberRow.run_id).join(Run, Run.id == GangMemberRow.run_id)
    works = GangMemberRow.lease_token == Run.lease_token, GangMemberRow.number > 0, GangMemberRow.ending.is_(None)
    return session.execute(query.where(*works)).tuples().all()


def _typical_seconds(session: Session, kinds: Iterable[str]) -> Mapping[str, float]:
    """Median time of the last runs of each kind; a kind without ended runs is left out."""
    typical = {}
    for kind in kinds:
        query = select(Run.ran_seconds).where(Run.state == State.SUCCEEDED.value, Run.kind == kind)
        recent = session.scalars(query.order_by(Run.id.desc()).limit(_RECENT_RUNS)).all()
        if recent:
            typical[kind] = statistics.median(recent)
    return typical


def _timeout() -> ColumnElement[float | None]:
    return Run.spec["timeout_seconds"].as_float().cast(Float)
