"""Gang scheduling: a run of N nodes starts when N workers have joined.

Workers join one after the other and wait. The worker that completes the gang gets the run's lease and is node 0; the
others work under that lease. When the lease or a member is lost, the attempt ends for all members.

Reservation of workers for a run of several nodes, with backfill (EASY) by runs that end before its start.

The first queued run of several nodes that the live workers can serve reserves workers: each of them that becomes free
joins its gang and stays in it, unless a run of higher priority is queued. Every worker joins the first such run in one
order, so two gangs never wait for each other's workers. A worker executes a shorter run first if the
``timeout_seconds`` of that run end before the expected start of the gang, for which other workers are missing anyway.

Lifka, "The ANL/IBM SP scheduling system", JSSPP 1995.
"""

from __future__ import annotations

import secrets
import statistics
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple, cast

from sqlalchemy import (
    ColumnElement,
    Float,
    Select,
    Subquery,
    and_,
    bindparam,
    delete,
    func,
    literal_column,
    or_,
    select,
)
from sqlalchemy.orm import Session

from lcl_core.db.leases import REATTACH_SECONDS, Claim, StaleLease
from lcl_core.db.models import GangMemberRow, Run, Worker
from lcl_core.db.session import now
from lcl_core.db.states import LEASED, State
from lcl_core.db.workers import (
    ALIVE_WITHIN,
    DeviceNeed,
    DevicePool,
    capacity,
    device_uses,
    leased_devices,
    needed_devices,
    serving_devices,
    uses_engine,
)
from lcl_core.jobs import ANY_DEVICE
from lcl_core.specs.parsing import SPEC_REVISION

BACKFILL_DEPTH = 1000  # queued runs, first in order of priority and time, among which short ones are searched
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
        code: cause of another failure, of ``workers.failure_table``.
    """

    worker: str
    message: str
    uses_attempt: bool = True
    reason: dict[str, Any] | None = None
    code: str = "node_lost"


def join_gang(
    session: Session, run_id: str, worker: str, lease_token: str, nodes: int, seconds: float
) -> MemberLease | None:
    """Join the gang of a run whose row the caller has locked.

    Returns: None when the gang is complete; all members work under ``lease_token`` then.
    """
    moment = now(session)
    # a member of an earlier attempt keeps its row, and its devices, until its process has ended
    # one that waits leaves no process behind: its worker counts as lost as soon as its heartbeats stop
    alive = select(Worker.id).where(Worker.seen_at >= moment - ALIVE_WITHIN)
    replaced = or_(
        GangMemberRow.expires_at < moment,
        GangMemberRow.ending.is_not(None),
        GangMemberRow.number == 0,
        and_(GangMemberRow.lease_token.is_(None), GangMemberRow.worker.not_in(alive)),
    )
    session.execute(delete(GangMemberRow).where(GangMemberRow.run_id == run_id, replaced))
    member = GangMemberRow(run_id=run_id, worker=worker, token=secrets.token_hex(16))
    member.expires_at = moment + timedelta(seconds=seconds)
    waiting = GangMemberRow.run_id == run_id, GangMemberRow.lease_token.is_(None)
    query = select(GangMemberRow).where(*waiting).order_by(GangMemberRow.worker)
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
    leader = (
        GangMemberRow.run_id == membership.run_id,
        GangMemberRow.lease_token == member.lease_token,
        GangMemberRow.number == 0,
    )
    address = session.scalars(select(GangMemberRow.address).where(*leader)).one_or_none()
    devices = leased_devices(session, membership.run_id, membership.token)
    claim = Claim.of(run, member.lease_token, membership.worker, node=member.number or 0, devices=devices)
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
        member.ending = {key: value for key, value in asdict(failure).items() if key != "worker"}


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
    """Names of the hosts of all nodes whose workers are alive."""
    query = select(Worker.host).join(GangMemberRow, GangMemberRow.worker == Worker.id)
    works = GangMemberRow.run_id == claim.run_id, GangMemberRow.lease_token == claim.token
    return set(session.scalars(query.where(*works)))


def member_failures(session: Session, claim: Claim, count_lost: bool = True) -> tuple[list[MemberFailure], bool]:
    """Failures and lost workers among the nodes above 0, and whether all these nodes have ended.

    Args:
        count_lost: False just after the database was away, when no node can have renewed its lease yet.
    """
    if not claim.is_gang:
        return [], True
    query = select(GangMemberRow).where(
        GangMemberRow.run_id == claim.run_id, GangMemberRow.lease_token == claim.token, GangMemberRow.number > 0
    )
    members = session.scalars(query.order_by(GangMemberRow.number)).all()
    moment, failures = now(session), []
    for member in members:
        if member.ending:
            failures.append(MemberFailure(member.worker, **member.ending))
        elif member.ending is None and member.expires_at < moment and count_lost:
            message = f"worker {member.worker}, node {member.number} of the run, was lost"
            failures.append(MemberFailure(member.worker, message))
    if len(members) < claim.nodes - 1:  # a row is missing only if its worker left before the start
        failures.append(MemberFailure("", "a worker left before the start", uses_attempt=False, code="interrupted"))
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
        need: of the run on this worker.
        collects: a worker waits for it, or devices are reserved for it.
        owner_running: leased runs of its owner.
        window: seconds until its expected start, if this worker is free by then.
    """

    need: DeviceNeed
    collects: bool
    owner_running: int
    window: float

    def admits(self, owner_running: ColumnElement[int], reserving: Collection[str]) -> ColumnElement[bool]:
        """Condition on a queued run of one node: it goes before this run, or ends before its expected start.

        Args:
            owner_running: leased runs of the owner of that run.
            reserving: runs for which devices are reserved.
        """
        queued_at, run_id = self.need.queued_at, self.need.run_id
        older = or_(Run.queued_at < queued_at, and_(Run.queued_at == queued_at, Run.id < run_id))
        reserved = Run.id.in_(sorted(reserving))
        if self.collects:
            precedes = and_(reserved, older)
        else:  # the order among owners counts
            fewer = or_(owner_running < self.owner_running, and_(owner_running == self.owner_running, older))
            precedes = or_(reserved, fewer)
        before = or_(Run.priority > self.need.priority, and_(Run.priority == self.need.priority, precedes))
        if self.window <= 0:
            return before
        return or_(before, and_(Run.id.in_(backfill_candidates()), _timeout() - Run.ran_seconds <= self.window))


def backfill_candidates() -> Select[Any]:
    """Query for the ids of queued runs of one node, among which short ones are searched."""
    return (
        select(Run.id)
        .where(Run.state == State.QUEUED.value, Run.nodes == 1)
        .order_by(Run.priority.desc(), Run.queued_at, Run.id)
        .limit(BACKFILL_DEPTH)
    )


def running_by_owner() -> Subquery:
    """``owner`` and the number ``runs`` of its leased runs."""
    query = select(Run.owner, func.count().label("runs")).where(Run.state.in_(_LEASED)).group_by(Run.owner)
    return query.subquery()


def can_serve(offers: Collection[str], resource: str) -> bool:
    """Whether a worker with these resources can run a run of that resource class."""
    return resource in (*offers, ANY_DEVICE)


def due_parameters(moment: datetime) -> dict[str, datetime]:
    """Parameters of ``is_due`` and ``awaits_no_engine`` at that time of the database's clock."""
    return {"due_at": moment, "abandoned_at": moment - timedelta(seconds=REATTACH_SECONDS)}


def is_due(run: Any = Run) -> ColumnElement[bool]:
    """Condition on a queued run: it may start, and this version can parse its spec.

    One whose attempt has failed may have to wait.
    """
    return and_(is_parsable(run), or_(run.ready_at.is_(None), run.ready_at <= bindparam("due_at")))


def is_parsable(run: Any = Run) -> ColumnElement[bool]:
    """Condition on a run: no newer version has submitted it, whose spec may have fields that this one refuses."""
    return cast(ColumnElement[bool], run.spec_revision <= SPEC_REVISION)


def awaits_no_engine(run: Any = Run) -> ColumnElement[bool]:
    """Condition on a queued run: none of its processes may still wait for a worker that re-attaches to them."""
    return or_(run.handle.is_(None), run.ready_at < bindparam("abandoned_at"))


def find_reservation(
    session: Session,
    worker_id: str,
    offers: Sequence[str],
    pool: DevicePool,
    moment: datetime,
    joined: str | None = None,
) -> Reservation | None:
    """The run that reserves this worker; None: there is none, or the worker has no row yet.

    Args:
        pool: devices of this worker; runs that have been passed over for lack of devices reserve nothing.
        moment: present time of the database's clock.
        joined: run whose gang the asking slot has joined. When another slot has joined one, no run reserves this slot.
    """
    gangs = _queued_gangs(session, offers, pool, moment)
    if not gangs:
        return None
    workers = [worker for worker in live_workers(session, moment) if not worker.has_engine]  # those join no gang
    this = next((worker for worker in workers if worker.id == worker_id), None)
    waiting, working = gang_members(session, moment)
    if this is None or any(worker_id in members for run_id, members in waiting.items() if run_id != joined):
        return None
    homes = {worker.id: worker.home for worker in workers}
    for gang, owner_running in gangs:
        gpus = needed_devices(gang, pool.size)
        if worker_id in working[gang.id] or (gpus > pool.room and gang.id != joined):
            continue  # the process of an earlier attempt still ends here, or the free devices are another run's
        members = waiting[gang.id]
        able = [worker for worker in workers if worker.home == this.home and worker.can_serve(gang)]
        elsewhere = any(homes.get(member, this.home) != this.home for member in members)
        if len(able) >= gang.nodes and not elsewhere:
            window = _seconds_until_start(session, gang, able, members - {worker_id}, this)
            need = DeviceNeed(gang.id, gpus, gang.nodes, gang.priority, gang.queued_at)
            collects = gang.reserved_at is not None or gang.id in pool.reserving
            return Reservation(need, collects, owner_running, window)
    return None


def _queued_gangs(session: Session, offers: Sequence[str], pool: DevicePool, moment: datetime) -> list[tuple[Run, int]]:
    """Queued runs of several nodes that a worker can serve, in the order in which they reserve; and their owners' runs.

    Those that reserve workers or devices already come first among their priority: joined workers do not change over.
    """
    given = {**due_parameters(moment), "passed": pool.passed}
    rows = session.execute(_queued_gangs_query(bool(pool.passed)), given).tuples()
    gangs = [(run, running) for run, running in rows if can_serve(offers, run.resource)]
    pool.reserving.update(run.id for run, _ in gangs if run.reserved_at)  # among devices too, the older one goes first

    def order(entry: tuple[Run, int]) -> tuple[Any, ...]:
        run, running = entry
        if run.reserved_at:
            turn: tuple[Any, ...] = (0, run.reserved_at)
        else:
            turn = (1 if run.id in pool.reserving else 2 + running, run.queued_at)
        return (-run.priority, *turn, run.id)

    return sorted(gangs, key=order)


@lru_cache(2)
def _queued_gangs_query(passes: bool) -> Select[Run, Any]:
    """Query for queued runs of several nodes, and the leased runs of the owner of each."""
    owners = running_by_owner()
    query = (
        select(Run, func.coalesce(owners.c.runs, 0))
        .outerjoin(owners, owners.c.owner == Run.owner)
        # "1" as it is: with a parameter SQLite would not read the partial index
        .where(Run.state == State.QUEUED.value, Run.nodes > literal_column("1"), is_due(), awaits_no_engine())
        .execution_options(populate_existing=True)
    )
    return query.where(Run.id.not_in(bindparam("passed", expanding=True))) if passes else query


class LiveWorker(NamedTuple):
    """A worker with a recent heartbeat."""

    id: str
    home: str | None
    offers: list[Any]
    slots: int
    devices: list[str]  # that no api serves inference on
    spec_revision: int
    has_engine: bool  # its executor places the processes of runs on a cluster, whose free capacity is not known here

    @property
    def size(self) -> int:
        """Devices that its largest run could get."""
        return capacity(self.devices)

    def can_serve(self, run: Run) -> bool:
        """Whether it could run the run, or one of its nodes, if all its slots and devices were free."""
        if run.spec_revision > self.spec_revision:
            return False
        return can_serve(self.offers, run.resource) and needed_devices(run, self.size) <= self.size


def live_workers(session: Session, moment: datetime) -> list[LiveWorker]:
    """Workers with a recent heartbeat. Only columns are read: ``current_run`` is a separate query for each worker."""
    columns = Worker.id, Worker.home, Worker.offers, Worker.slots, Worker.gpu_ids, Worker.spec_revision, Worker.devices
    rows = session.execute(select(*columns).where(Worker.seen_at >= moment - ALIVE_WITHIN)).tuples().all()
    serving = serving_devices(session) if any(row[4] for row in rows) else set()
    return [
        LiveWorker(
            id_, home, offers, slots, [each for each in gpus if each not in serving], revision, uses_engine(names)
        )
        for id_, home, offers, slots, gpus, revision, names in rows
    ]


def gang_members(session: Session, moment: datetime) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """{run: workers} of those that wait for the others of a gang, and of those above node 0 whose process may live."""
    columns = GangMemberRow.run_id, GangMemberRow.worker, GangMemberRow.lease_token
    counts = (
        GangMemberRow.expires_at >= moment,
        GangMemberRow.ending.is_(None),
        func.coalesce(GangMemberRow.number, 1) > 0,
    )
    waiting: dict[str, set[str]] = defaultdict(set)
    working: dict[str, set[str]] = defaultdict(set)
    for run_id, worker, lease_token in session.execute(select(*columns).where(*counts)).tuples():
        (waiting if lease_token is None else working)[run_id].add(worker)
    return waiting, working


def _seconds_until_start(
    session: Session, gang: Run, able: Sequence[LiveWorker], members: set[str], this: LiveWorker
) -> float:
    """Seconds until enough workers have a free slot and free devices, ``this`` having them at once."""
    missing = gang.nodes - len(members) - 1
    others = [worker for worker in able if worker.id not in members and worker.id != this.id]
    if missing <= 0:
        return 0.0
    ends = _expected_ends(session, {worker.id: worker for worker in others})
    return sorted(_free_in(worker, ends[worker.id], gang) for worker in others)[missing - 1]


def _free_in(worker: LiveWorker, ends: Sequence[tuple[float, int]], gang: Run) -> float:
    """Seconds until the worker can join; with a free slot and free devices it is about to.

    Args:
        ends: expected seconds to the end of each of its runs and nodes, and the devices of that.
    """
    seconds = min(ends)[0] if len(ends) >= worker.slots else 0.0
    lacking = sum(devices for _, devices in ends) + needed_devices(gang, worker.size) - worker.size
    for end, devices in sorted(ends):
        if lacking <= 0:
            break
        seconds, lacking = max(seconds, end), lacking - devices
    return seconds


def _expected_ends(session: Session, workers: Mapping[str, LiveWorker]) -> dict[str, list[tuple[float, int]]]:
    """{worker: expected seconds to the end of each of its runs and nodes, and their devices}; 0 s if nothing is known.

    Args:
        workers: by id.
    """
    columns = (Run.id, Run.kind, Run.lease_owner, Run.ran_seconds, _timeout())
    leased = session.execute(select(*columns).where(Run.state.in_(_LEASED))).tuples().all()
    typical = _typical_seconds(session, {kind for _, kind, _, _, timeout in leased if timeout is None})
    remaining = {
        run_id: max(0.0, (typical.get(kind, 0.0) if timeout is None else timeout) - ran)
        for run_id, kind, _, ran, timeout in leased
    }
    uses = device_uses(session) if any(worker.devices for worker in workers.values()) else []
    devices = Counter((use.worker, use.run_id) for use in uses if not use.reserved)
    at_work = [(owner, run_id) for run_id, _, owner, _, _ in leased if owner is not None]
    ends: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for worker, run_id in [*at_work, *_working_members(session)]:
        if worker in workers:
            ends[worker].append((remaining.get(run_id, 0.0), devices[worker, run_id]))
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
