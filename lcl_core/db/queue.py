"""Job queue: order of the queued runs, and the claim of the next one.

Order: priority, then runs for which devices are reserved, then the owner with the fewest running runs, then the longest
wait. A claim is a compare-and-swap on the state; PostgreSQL skips rows that another worker has locked.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, func, literal, or_, select, update
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Session

from lcl_core.db.gang import MemberLease, join_gang
from lcl_core.db.leases import Claim
from lcl_core.db.models import GangMemberRow, Run
from lcl_core.db.session import now, sql_now
from lcl_core.db.states import LEASED, State
from lcl_core.db.workers import DeviceNeed, DevicePool, capacity, need_columns
from lcl_core.jobs import ANY_DEVICE, RESOURCES


def claim_next(
    session: Session,
    worker: str,
    lease_seconds: float = 30.0,
    offers: Sequence[str] = RESOURCES,
    given_up: str | None = None,
    devices: Sequence[str] = (),
) -> Claim | MemberLease | None:
    """Claim the next run for a worker, or a membership in the gang of a run of several nodes; None: there is none.

    Two workers never claim one run: PostgreSQL skips rows that another worker has locked, and the update compares the
    state. The devices that the run needs are leased in the same transaction.

    Args:
        offers: resources of the worker, of ``cpu`` and ``gpu``.
        given_up: a run whose gang this worker has left, not complete; it comes last.
        devices: ids of the GPUs of the worker; without any it runs on the processor what may run anywhere.
    """
    due = or_(Run.ready_at.is_(None), Run.ready_at <= sql_now(session))  # one whose attempt failed may have to wait
    pool = DevicePool(session, worker, devices)
    while (row := session.execute(next_candidate(worker, offers, pool, given_up).where(due)).one_or_none()) is not None:
        need, token = DeviceNeed(*row), secrets.token_hex(16)
        chosen = pool.choose(need)
        if chosen is None:
            continue
        if need.nodes > 1:
            membership = join_gang(session, need.run_id, worker, token, need.nodes, lease_seconds)
            if membership is not None:
                pool.bind(chosen, need, membership.token)
                return membership
        claim = _claim_run(session, need.run_id, token, worker, lease_seconds)
        if claim is not None:
            pool.bind(chosen, need, token)
            return replace(claim, devices=chosen)
    return None


def next_candidate(worker: str, offers: Sequence[str], pool: DevicePool, last: str | None = None) -> Select[Any]:
    """Query for the need of the next run of a worker; it locks the row and skips rows that others have locked.

    Owners without running runs come before owners with some, and among them the longest wait decides, so no owner
    starves. A run for which devices are reserved keeps its place before them. A run whose gang the worker has joined
    already is no candidate for its other slots.

    Args:
        last: id of a run that comes after all others.
    """
    running = (
        select(Run.owner, func.count().label("runs"))
        .where(Run.state.in_([state.value for state in LEASED]))
        .group_by(Run.owner)
        .subquery()
    )
    joined = select(GangMemberRow.run_id).where(GangMemberRow.worker == worker, GangMemberRow.lease_token.is_(None))
    order = [Run.priority.desc(), func.coalesce(running.c.runs, 0), Run.queued_at, Run.id]
    if pool.reserving:
        order.insert(1, case((Run.id.in_(sorted(pool.reserving)), 0), else_=1))
    if last is not None:
        order.insert(0, case((Run.id == last, 1), else_=0))
    return (
        select(*need_columns(case((_needs_devices(pool.size), Run.gpus), else_=0)))
        .outerjoin(running, running.c.owner == Run.owner)
        .where(Run.state == State.QUEUED.value, Run.id.not_in(joined), Run.id.not_in(pool.passed))
        .where(_can_be_claimed(offers, pool.size, pool.room))
        .order_by(*order)
        .limit(1)
        .with_for_update(of=Run, skip_locked=True)
    )


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
