"""Job queue: order of the queued runs, and the claim of the next one.

Order: priority, then runs for which devices are reserved, then the owner with the fewest running runs, then the longest
wait. Runs of several nodes are left to workers whose executor places all nodes of a run. A claim is a compare-and-swap
on the state; PostgreSQL skips rows that another worker has locked.

Composing a statement of a claim costs more CPU time than its execution. Each form of a statement is composed once in a
process; two claims differ only in its parameters.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache, partial
from typing import Any, cast

from sqlalchemy import (
    CTE,
    BindParameter,
    ColumnElement,
    Float,
    Row,
    Select,
    Subquery,
    Table,
    and_,
    bindparam,
    case,
    false,
    func,
    literal_column,
    null,
    or_,
    select,
    true,
    union,
    update,
)
from sqlalchemy.orm import Session, lazyload, load_only
from sqlalchemy.sql.dml import ReturningUpdate

from lcl_core.db.leases import CLAIM_FIELDS, REATTACH_SECONDS, Claim, is_unwanted
from lcl_core.db.models import Run
from lcl_core.db.session import now
from lcl_core.db.states import LEASED, State
from lcl_core.db.workers import (
    DeviceNeed,
    DevicePool,
    LiveWorker,
    capacity,
    device_uses,
    live_workers,
    need_columns,
    needed_devices,
    obtainable_devices,
)
from lcl_core.jobs import ANY_DEVICE, RESOURCES

_ALIASES = tuple(Run.__table__.alias() for _ in range(5))  # made once: each copies all columns
_FORMS = 128  # of one statement that are kept
_EXAMINED_HEADS = 200  # first runs of their groups
_PASSED: BindParameter[Any] = bindparam("passed", expanding=True)  # runs to leave out
_Read = Callable[[bool], Select[Any]]  # query for the next run; whether it leaves out the runs ``passed``


def claim_next(
    session: Session,
    worker: str,
    lease_seconds: float = 30.0,
    offers: Sequence[str] = RESOURCES,
    devices: Sequence[str] = (),
) -> Claim | None:
    """Claim the next run of one node for a worker; None: there is none.

    Two workers never claim one run: PostgreSQL skips rows that another worker has locked, and the update compares the
    state. The devices that the run needs are leased in the same transaction.

    Args:
        offers: resources of the worker, of ``cpu`` and ``gpu``.
        devices: ids of the GPUs of the worker; without any it executes runs that may run anywhere on the CPU.
    """
    pool = DevicePool(session, worker, devices)
    while True:
        given = {"room": pool.room, "reserving": sorted(pool.reserving), **due_parameters(now(session))}
        read = partial(_candidates, tuple(offers), pool.size > 0, bool(pool.reserving))
        row = _lock_first(session, read, given, pool.size > 0, pool.passed)
        if row is None:
            return None
        need = DeviceNeed(*tuple(row))
        chosen = pool.choose(need)
        if chosen is None:
            continue  # it waits for devices; what may run beside it is next
        token = secrets.token_hex(16)
        claim = _claim_run(session, need.run_id, token, worker, lease_seconds)
        if claim is not None:
            pool.bind(chosen, need, token)
            return replace(claim, devices=chosen)


def _lock_first(
    session: Session, read: _Read, given: Mapping[str, Any], has_devices: bool, passed: Sequence[str] = ()
) -> Row[Any] | None:
    """Lock the next run; None: there is none that no other worker has locked.

    Where another worker is claiming that run, the next of its owner, need and priority is locked instead.

    Args:
        read: its query has the id of the next run, whether only that run will do, and its ``_peers_of``.
        given: parameters of that query, and of ``_may_start``.
        has_devices: whether runs that may run anywhere use devices of the worker.
        passed: runs to leave out.

    Returns: fields of the run's ``DeviceNeed``.
    """
    passed = list(passed)
    while (row := session.execute(read(bool(passed)), {**given, "passed": passed}).one_or_none()) is not None:
        run_id, alone, *group = tuple(row)
        peers = {f"peer_{column.key}": value for column, value in zip(_peers_of(Run), group, strict=True)}
        query = _lock_query(bool(alone), has_devices, bool(passed))
        values = {**given, **peers, "run_id": run_id, "passed": passed}
        locked = session.execute(query, values).one_or_none()
        if locked is not None:
            return locked
        passed.append(run_id)
    return None


@lru_cache(_FORMS)
def _lock_query(alone: bool, has_devices: bool, passes: bool) -> Select[Any]:
    """Query that locks the run ``run_id``, or the first of its peers that is not locked."""
    found = [Run.id == bindparam("run_id"), _is_queued(Run)]
    if not alone:
        peers = [column == bindparam(f"peer_{column.key}") for column in _peers_of(Run)]
        found = [*peers, *_may_start(Run, passes)]
    gpus = case((_needs_devices(has_devices), Run.gpus), else_=0)
    query = select(*need_columns(gpus)).where(*found).order_by(Run.queued_at, Run.id).limit(1)
    return query.with_for_update(of=Run, skip_locked=True)


@lru_cache(_FORMS)
def _candidates(offers: tuple[str, ...], has_devices: bool, reserves: bool, passes: bool) -> Select[Any]:
    """Query for the first queued run of one node, as ``_lock_first`` reads it.

    Owners without running runs come before owners with some, and among them the longest wait decides, so no owner
    starves. A run for which devices are reserved keeps its place before them.

    Args:
        reserves: whether devices are reserved for the runs ``reserving``.
        passes: whether it leaves out the runs ``passed``.
    """
    owners = running_by_owner()
    order = [Run.priority.desc(), func.coalesce(owners.c.runs, 0), Run.queued_at, Run.id]
    reserving = Run.id.in_(bindparam("reserving", expanding=True)) if reserves else false()

    def serves(run: Any) -> ColumnElement[bool]:
        return and_(run.nodes == 1, _can_be_claimed(offers, has_devices, bindparam("room"), run))

    candidates = [_heads(serves, passes)]
    if reserves:
        order.insert(1, case((reserving, 0), else_=1))
        candidates.append(select(Run.id).where(reserving, serves(Run), *_may_start(Run, passes)))
    found = _union_of(*candidates)
    query = (
        select(Run.id, reserving, *_peers_of(Run))
        .join(found, found.c.id == Run.id)
        .outerjoin(owners, owners.c.owner == Run.owner)
        .order_by(*order)
    )
    return query.limit(1)


def _heads(serves: Callable[[Any], ColumnElement[bool]], passes: bool) -> Select[Any]:
    """Ids of the first run of each group of queued runs, in three reads of ``ix_run_heads`` a group.

    A group has one owner and one need, so that the order of claims is the order of its runs: the first of all queued
    runs is one of the heads. The groups are found by a skip scan: each is the first one beyond the one before it.

    Args:
        serves: condition on the group of a run.
        passes: whether it leaves out the runs ``passed``.
    """
    member, first, beyond, highest, head = (alias.c for alias in _ALIASES)
    seed = select(first.id).where(_is_queued(first)).order_by(*_group_of(first)).limit(1)
    groups = select(seed.scalar_subquery().label("member")).cte("run_groups", recursive=True)
    # the next owner of the same need, or else the next need: SQLite reads one column's range of an index, not a tuple's
    columns = [each.name for each in _group_of(Run)]
    following = [
        select(beyond.id)
        .where(_is_queued(beyond), *(beyond[name] == member[name] for name in columns[:equal]))
        .where(beyond[columns[equal]] > member[columns[equal]])
        .order_by(*(beyond[name] for name in columns[equal:]))
        .limit(1)
        .scalar_subquery()
        for equal in reversed(range(len(columns)))
    ]
    groups = groups.union_all(select(func.coalesce(*following)).where(member.id == groups.c.member))
    # by itself, since no index has both orders
    priority = select(highest.priority).where(*_same_group(highest, member), *_may_start(highest, passes))
    first_of_group = (
        select(head.id)
        .where(serves(member), *_same_group(head, member), *_may_start(head, passes))
        .where(
            head.priority
            == priority.order_by(highest.priority.desc()).limit(1).correlate(_ALIASES[0]).scalar_subquery()
        )
        .order_by(head.queued_at, head.id)
        .limit(1)
    )
    # outer, so that the groups are what SQLite begins with
    rows = groups.outerjoin(_ALIASES[0], member.id == groups.c.member)
    return select(first_of_group.scalar_subquery().label("id")).select_from(rows)


def _union_of(*candidates: Select[Any]) -> CTE:
    """Ids of candidates, found before they are read: else PostgreSQL may scan the whole queue for them."""
    return union(*candidates).cte("candidates").prefix_with("MATERIALIZED")


def _group_of(run: Any) -> tuple[Any, ...]:
    """The first columns of ``ix_run_heads``."""
    return run.resource, run.gpus, run.nodes, run.owner


def _peers_of(run: Any) -> tuple[Any, ...]:
    """Columns that are equal in runs of one group which only the longest wait orders."""
    return *_group_of(run), run.priority


def _same_group(run: Any, other: Any) -> list[ColumnElement[bool]]:
    return [column == value for column, value in zip(_group_of(run), _group_of(other), strict=True)]


def _is_queued(run: Any) -> ColumnElement[bool]:
    """Spelled out in the statement: with a parameter the partial index would not be read."""
    return run.state == literal_column(f"'{State.QUEUED.value}'")


def _may_start(run: Any, passes: bool) -> tuple[ColumnElement[bool], ...]:
    conditions = _is_queued(run), is_due(run), awaits_no_engine(run)
    return (*conditions, run.id.not_in(_PASSED)) if passes else conditions


@dataclass(frozen=True)
class EngineCapacity:
    """Free capacity, at this moment, of an engine that places the processes of runs.

    Attributes:
        executor: whose handles its workers re-attach to.
        gpus: free, of all nodes.
        has_gpus: whether any node has some; else runs of the class ``accelerator`` use CPUs.
        cpus: free, of all nodes.
        cpus_per_node: that each node of a run gets.
    """

    executor: str
    nodes: int
    cpus: float
    gpus: float
    has_gpus: bool
    cpus_per_node: float = 1.0


def claim_for_engine(
    session: Session, worker: str, lease_seconds: float, offers: Sequence[str], capacity: EngineCapacity
) -> Claim | None:
    """Claim the next run, all its nodes, for a worker whose executor places processes itself; None: none fits.

    Runs whose processes have outlived their worker come first, since they already have their capacity. The order of the
    others is that of :func:`claim_next`, without reservation: a run that fits now precedes one that does not.
    """
    read = partial(_next_for_engine, tuple(offers), capacity.has_gpus)
    given = asdict(capacity) | due_parameters(now(session))
    row = _lock_first(session, read, given, capacity.has_gpus)
    return None if row is None else _claim_run(session, row.id, secrets.token_hex(16), worker, lease_seconds)


@lru_cache(_FORMS)
def _next_for_engine(offers: tuple[str, ...], has_gpus: bool, passes: bool) -> Select[Any]:
    """Query for the next run of an engine, as ``_lock_first`` reads it; the other parameters are of its capacity."""
    owners = running_by_owner()
    own = and_(func.coalesce(Run.handle["executor"].as_string(), "") == bindparam("executor"), ~is_unwanted())

    def fits(run: Any) -> ColumnElement[bool]:
        needs = run.resource.in_(["gpu", ANY_DEVICE]) if has_gpus else run.resource == "gpu"
        return and_(
            run.resource.in_([*offers, ANY_DEVICE]),
            run.nodes <= bindparam("nodes"),
            run.nodes * bindparam("cpus_per_node", type_=Float) <= bindparam("cpus", type_=Float),
            or_(~needs, run.nodes * run.gpus <= bindparam("gpus", type_=Float)),
        )

    due = [_is_queued(Run), is_due(Run), Run.resource.in_([*offers, ANY_DEVICE])]
    if passes:
        due.append(Run.id.not_in(_PASSED))
    # any number of nodes: the index ix_run_handles has it, and SQLite takes the index of which a query bounds more
    placed = select(Run.id).where(Run.handle.is_not(None), Run.nodes >= literal_column("1"), own, *due)
    found = _union_of(_heads(fits, passes), placed)
    return (
        select(Run.id, own, *_peers_of(Run))
        .join(found, found.c.id == Run.id)
        .outerjoin(owners, owners.c.owner == Run.owner)
        .order_by(case((own, 0), else_=1), Run.priority.desc(), func.coalesce(owners.c.runs, 0), Run.queued_at, Run.id)
        .limit(1)
    )


def running_by_owner() -> Subquery:
    """``owner`` and the number ``runs`` of its leased runs."""
    leased = Run.state.in_([state.value for state in LEASED])
    return select(Run.owner, func.count().label("runs")).where(leased).group_by(Run.owner).subquery()


def due_parameters(moment: datetime) -> dict[str, datetime]:
    """Parameters of ``is_due`` and ``awaits_no_engine`` at that time of the database's clock."""
    return {"due_at": moment, "abandoned_at": moment - timedelta(seconds=REATTACH_SECONDS)}


def is_due(run: Any = Run) -> ColumnElement[bool]:
    """Condition on a queued run: it may start. One whose attempt has failed may have to wait."""
    return or_(run.ready_at.is_(None), run.ready_at <= bindparam("due_at"))


def awaits_no_engine(run: Any = Run) -> ColumnElement[bool]:
    """Condition on a queued run: none of its processes may still wait for a worker that re-attaches to them."""
    return or_(run.handle.is_(None), run.ready_at < bindparam("abandoned_at"))


def unclaimed_runs(
    session: Session, before: datetime, offers: Sequence[str] = RESOURCES, devices: Sequence[str] = ()
) -> list[str]:
    """Ids of queued runs that a worker with these resources could have claimed ``before`` that time; at most 100."""
    unclaimed = func.coalesce(Run.ready_at, Run.queued_at) < before
    size = capacity(devices)
    query = (
        select(Run.id)
        .where(Run.state == State.QUEUED.value, _can_be_claimed(offers, size > 0, size), unclaimed)
        .order_by(Run.priority.desc(), Run.queued_at, Run.id)
    )
    return list(session.scalars(query.limit(100)))


def unclaimed_since(session: Session, after: datetime | None, before: datetime) -> str | None:
    """Id of a queued run that could first be claimed between these times, and is not claimed yet; None: there is none.

    Args:
        after: None: at any time before.
    """
    query = select(Run.id).where(_is_queued(Run))
    if after is None:
        query = query.where(func.coalesce(Run.ready_at, Run.queued_at) < before)
    else:  # by the index ix_run_ready; only older versions leave the time out
        query = query.where(Run.ready_at >= after, Run.ready_at < before)
    return session.scalars(query.limit(1)).one_or_none()


def longest_claimable_wait(session: Session) -> float:
    """Seconds for which a queued run has waited that a worker with a free slot could claim now. 0: there is none.

    Only the first run of each owner and need is examined, and at most 200 of them, the longest wait first. Workers
    whose executor places processes itself are left out: the database does not know what their cluster has free.
    """
    moment = now(session)
    rows = session.execute(_longest_waiting(), due_parameters(moment)).tuples().all()
    if not rows:
        return 0.0
    workers = _IdleWorkers(session, moment)
    waits = (max(0.0, (moment - since).total_seconds()) for run, since in rows if workers.can_start(run))
    return next(waits, 0.0)


@lru_cache(1)
def _longest_waiting() -> Select[Run, datetime]:
    """Query for the first run of each group, and since when it could be claimed."""
    heads = _union_of(_heads(lambda run: true(), False))
    since = func.coalesce(Run.ready_at, Run.queued_at, type_=Run.queued_at.type)
    columns = Run.resource, Run.gpus, Run.nodes, Run.priority, Run.queued_at
    query = select(Run, since).join(heads, heads.c.id == Run.id).order_by(since, Run.id).limit(_EXAMINED_HEADS)
    return query.options(load_only(*columns), lazyload(Run.tag_rows), lazyload(Run.after_rows))


class _IdleWorkers:
    """Slots and devices that live workers have free at one moment. Workers with an engine are left out. Only reads."""

    def __init__(self, session: Session, moment: datetime) -> None:
        self._workers = [worker for worker in live_workers(session, moment) if not worker.has_engine]
        leased = select(Run.lease_owner).where(Run.state.in_([state.value for state in LEASED]))
        used = Counter(session.scalars(leased))
        self._idle = {worker.id for worker in self._workers if used[worker.id] < worker.slots}
        uses = device_uses(session) if any(worker.devices for worker in self._workers) else []
        self._uses = {use.device: use for use in uses}
        self._reserving = {use.run_id for use in uses if use.reserved}

    def can_start(self, run: Run) -> bool:
        """Whether the run starts as soon as the workers query the queue."""
        return run.nodes == 1 and any(self._can_claim(worker, run) for worker in self._workers)

    def _can_claim(self, worker: LiveWorker, run: Run) -> bool:
        if worker.id not in self._idle or not worker.can_serve(run):
            return False
        number = needed_devices(run, capacity(worker.devices))
        need = DeviceNeed(run.id, number, run.priority, run.queued_at)
        uses = {device: self._uses[device] for device in worker.devices if device in self._uses}
        return len(obtainable_devices(need, worker.devices, uses, run.id in self._reserving)) >= number


def _can_be_claimed(
    offers: Sequence[str], has_devices: bool, room: int | BindParameter[int], run: Any = Run
) -> ColumnElement[bool]:
    """Condition on a run: a worker with these resources can run it.

    Args:
        has_devices: without any the worker executes runs that may run anywhere on the CPU.
        room: devices that the run may need.
    """
    served = run.resource.in_([offer for offer in offers if offer != "gpu"] + [ANY_DEVICE])
    needs = _needs_devices(has_devices, run)
    return or_(and_(served, ~needs), and_(needs, run.gpus <= room))


def _needs_devices(has_devices: bool, run: Any = Run) -> ColumnElement[bool]:
    """Condition on a run: it needs devices of a worker."""
    needs: ColumnElement[bool] = run.resource.in_(["gpu", ANY_DEVICE]) if has_devices else run.resource == "gpu"
    return needs


def _claim_run(session: Session, run_id: str, token: str, worker: str, lease_seconds: float) -> Claim | None:
    """None: the run is not queued any more."""
    moment = now(session)
    values = {"claimed": run_id, "moment": moment, "token": token, "worker": worker}
    expires_at = moment + timedelta(seconds=lease_seconds)
    run = session.execute(_lease_statement(), {**values, "expires_at": expires_at}).one_or_none()
    if run is None:
        return None
    waited = max(0.0, (moment - (run.ready_at or run.queued_at)).total_seconds())
    return Claim.of(run, token, worker, waited_seconds=waited)


@lru_cache(1)
def _lease_statement() -> ReturningUpdate[Any]:
    """Lease the queued run ``claimed``."""
    # of the table: each session would compose a statement of the class again, annotated
    table = cast(Table, Run.__table__)
    run = table.c
    values = {
        run.state: State.RUNNING.value,
        run.attempt: run.attempt + 1,
        run.started_at: func.coalesce(run.started_at, bindparam("moment", type_=run.started_at.type)),
        run.lease_token: bindparam("token"),
        run.lease_owner: bindparam("worker"),
        run.lease_expires_at: bindparam("expires_at"),
        run.handle: case((is_unwanted(run), null()), else_=run.handle),
    }
    columns = [run[name] for name in ("id", "ready_at", "queued_at", *CLAIM_FIELDS)]
    return update(table).where(run.id == bindparam("claimed"), _is_queued(run)).values(values).returning(*columns)
