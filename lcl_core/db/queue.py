"""Job queue: order of the queued runs, and the claim of the next one.

Order: priority, then runs for which devices or workers are reserved, then the owner with the fewest running runs, then
the longest wait. When a run of several nodes is next says ``lcl_core.db.gang``. A claim is a compare-and-swap on the
state; PostgreSQL skips rows that another worker has locked.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, func, literal, or_, select, update
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Session

from lcl_core.db.gang import (
    MemberLease,
    Reservation,
    awaits_no_engine,
    find_reservation,
    is_due,
    join_gang,
    release_member,
    running_by_owner,
)
from lcl_core.db.leases import Claim
from lcl_core.db.models import Run
from lcl_core.db.session import now
from lcl_core.db.states import State
from lcl_core.db.workers import DeviceNeed, DevicePool, capacity, need_columns
from lcl_core.jobs import ANY_DEVICE, RESOURCES


def claim_next(
    session: Session,
    worker: str,
    lease_seconds: float = 30.0,
    offers: Sequence[str] = RESOURCES,
    devices: Sequence[str] = (),
    seat: MemberLease | None = None,
) -> Claim | MemberLease | None:
    """Claim the next run for a worker, or a membership in the gang of a run of several nodes; None: there is none.

    Two workers never claim one run: PostgreSQL skips rows that another worker has locked, and the update compares the
    state. The devices that the run needs are leased in the same transaction.

    Args:
        offers: resources of the worker, of ``cpu`` and ``gpu``.
        devices: ids of the GPUs of the worker; without any it runs on the processor what may run anywhere.
        seat: membership with which the worker waits. It is returned while the worker is to go on waiting, and given up
            for what is returned otherwise.
    """
    pool = DevicePool(session, worker, devices, seat.token if seat else None)
    chosen: tuple[str, ...] = ()
    while True:
        reservation = find_reservation(session, worker, offers, pool, seat.run_id if seat else None)
        row = session.execute(next_candidate(session, offers, pool, reservation)).one_or_none()
        need = DeviceNeed(*row) if row is not None else reservation.need if reservation is not None else None
        if need is not None:
            if seat is not None and need.run_id == seat.run_id:
                return seat
            found = pool.choose(need)
            if found is None:
                continue  # it waits for devices; what may run beside it is next
            chosen = found
        if seat is not None:
            if not release_member(session, seat, only_waiting=True):
                return seat  # the gang is complete, or the membership has expired: its holder sees that
            pool.release_membership()
            seat = None
        if need is None:
            return None
        token = secrets.token_hex(16)
        if need.nodes > 1:
            if not _lock_gang(session, need.run_id, worker, offers, pool):
                continue
            membership = join_gang(session, need.run_id, worker, token, need.nodes, lease_seconds)
            if membership is not None:
                pool.bind(chosen, need, membership.token)
                return membership
        claim = _claim_run(session, need.run_id, token, worker, lease_seconds)
        if claim is not None:
            pool.bind(chosen, need, token)
            return replace(claim, devices=chosen)


def next_candidate(
    session: Session, offers: Sequence[str], pool: DevicePool, reservation: Reservation | None = None
) -> Select[Any]:
    """Query for the need of the next run of one node; it locks the row and skips rows that others have locked.

    Owners without running runs come before owners with some, and among them the longest wait decides, so no owner
    starves. A run for which devices are reserved keeps its place before them.

    Args:
        reservation: of the worker for a run of several nodes; only runs that may go before that one are candidates.
    """
    owners = running_by_owner()
    running = func.coalesce(owners.c.runs, 0)
    order = [Run.priority.desc(), running, Run.queued_at, Run.id]
    if pool.reserving:
        order.insert(1, case((Run.id.in_(sorted(pool.reserving)), 0), else_=1))
    query = (
        select(*need_columns(case((_needs_devices(pool.size), Run.gpus), else_=0)))
        .outerjoin(owners, owners.c.owner == Run.owner)
        .where(Run.state == State.QUEUED.value, Run.nodes == 1, is_due(session), Run.id.not_in(pool.passed))
        .where(awaits_no_engine(session))
        .where(_can_be_claimed(offers, pool.size, pool.room))
        .order_by(*order)
    )
    if reservation is not None:
        query = query.where(reservation.admits(running, pool.reserving))
    return query.limit(1).with_for_update(of=Run, skip_locked=True)


@dataclass(frozen=True)
class EngineCapacity:
    """What an engine that places the processes of runs has free at this moment.

    Attributes:
        executor: whose handles its workers re-attach to.
        gpus: free, of all nodes.
        has_gpus: whether any node has some; else runs of the class ``accelerator`` use processors.
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

    Runs whose processes have outlived their worker come first, since they hold their place already. The order of the
    others is that of :func:`claim_next`, without reservation: what fits now goes before what does not.
    """
    while True:
        run_id = session.scalars(next_for_engine(session, offers, capacity)).one_or_none()
        if run_id is None:
            return None
        claim = _claim_run(session, run_id, secrets.token_hex(16), worker, lease_seconds)
        if claim is not None:
            return replace(claim, engine=True)


def next_for_engine(session: Session, offers: Sequence[str], capacity: EngineCapacity) -> Select[Any]:
    """Query for the id of the next run of an engine; it locks the row and skips rows that others have locked."""
    owners = running_by_owner()
    own = func.coalesce(Run.handle["executor"].as_string(), "") == capacity.executor
    needs = Run.resource.in_(["gpu", ANY_DEVICE]) if capacity.has_gpus else Run.resource == "gpu"
    fits = and_(
        Run.nodes <= capacity.nodes,
        Run.nodes * capacity.cpus_per_node <= capacity.cpus,
        or_(~needs, Run.nodes * Run.gpus <= capacity.gpus),
        awaits_no_engine(session),
    )
    return (
        select(Run.id)
        .outerjoin(owners, owners.c.owner == Run.owner)
        .where(Run.state == State.QUEUED.value, is_due(session), Run.resource.in_([*offers, ANY_DEVICE]))
        .where(or_(own, fits))
        .order_by(case((own, 0), else_=1), Run.priority.desc(), func.coalesce(owners.c.runs, 0), Run.queued_at, Run.id)
        .limit(1)
        .with_for_update(of=Run, skip_locked=True)
    )


def _lock_gang(session: Session, run_id: str, worker: str, offers: Sequence[str], pool: DevicePool) -> bool:
    """Lock the row of a run of several nodes, waiting for others that join.

    Returns: whether the run still reserves this worker, which others may have changed meanwhile.
    """
    query = select(Run).where(Run.id == run_id, Run.state == State.QUEUED.value).with_for_update(of=Run)
    run = session.scalars(query.execution_options(populate_existing=True)).one_or_none()
    reservation = find_reservation(session, worker, offers, pool)
    if run is None or reservation is None or reservation.need.run_id != run_id:
        return False
    run.reserved_at = run.reserved_at or now(session)
    return True


def unclaimed_runs(
    session: Session, before: datetime, offers: Sequence[str] = RESOURCES, devices: Sequence[str] = ()
) -> list[str]:
    """Ids of queued runs that a worker with these resources could have claimed ``before`` that time; at most 100."""
    unclaimed = func.coalesce(Run.ready_at, Run.queued_at) < before
    size = capacity(devices)
    query = (
        select(Run.id)
        .where(Run.state == State.QUEUED.value, _can_be_claimed(offers, size, size), unclaimed)
        .order_by(Run.priority.desc(), Run.queued_at, Run.id)
    )
    return list(session.scalars(query.limit(100)))


def _can_be_claimed(offers: Sequence[str], size: int, room: int) -> ColumnElement[bool]:
    """Condition on a run: a worker with these resources can run it.

    Args:
        size: devices of the worker; without any it runs what may run anywhere on the processor.
        room: devices that the run may need.
    """
    served = Run.resource.in_([offer for offer in offers if offer != "gpu"] + [ANY_DEVICE])
    without = and_(served, ~_needs_devices(size))
    return or_(without, and_(_needs_devices(size), Run.gpus <= room))


def _needs_devices(size: int) -> ColumnElement[bool]:
    """Condition on a run: it needs devices of a worker that has ``size`` of them."""
    return Run.resource.in_(["gpu", ANY_DEVICE]) if size else Run.resource == "gpu"


def _claim_run(session: Session, run_id: str, token: str, worker: str, lease_seconds: float) -> Claim | None:
    """None: the run is not queued any more."""
    moment = now(session)
    updated = session.execute(
        update(Run)
        .where(Run.id == run_id, Run.state == State.QUEUED.value)
        .values(
            state=State.RUNNING.value,
            reserved_at=None,
            attempt=Run.attempt + 1,
            started_at=func.coalesce(Run.started_at, literal(moment, Run.started_at.type)),
            lease_token=token,
            lease_owner=worker,
            lease_expires_at=moment + timedelta(seconds=lease_seconds),
        )
        .execution_options(synchronize_session=False)
    )
    if not (isinstance(updated, CursorResult) and updated.rowcount == 1):
        return None
    run = session.get_one(Run, run_id, populate_existing=True)
    waited = max(0.0, (moment - (run.ready_at or run.queued_at)).total_seconds())
    return Claim.of(run, token, worker, waited_seconds=waited)
