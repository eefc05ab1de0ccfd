"""Job queue: order of the queued runs, and the claim of the next one.

Order: priority, then the owner with the fewest running runs, then the longest wait. A claim is a compare-and-swap on
the state; PostgreSQL skips rows that another worker has locked.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, case, func, literal, select, update
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Session

from lcl_core.db.gang import MemberLease, join_gang
from lcl_core.db.leases import Claim
from lcl_core.db.models import GangMemberRow, Run
from lcl_core.db.session import now
from lcl_core.db.states import LEASED, State
from lcl_core.jobs import ANY_DEVICE, RESOURCES


def next_candidate(worker: str, offers: Sequence[str], last: str | None = None) -> Select[str]:
    """Id of the run that a worker with these resources is to take; PostgreSQL skips rows that another is taking.

    Among runs of one priority the owner goes first who has the fewest runs at work. Nobody starves by it: who has
    none at work goes before all who have some, and among those the longest wait decides. A run of several nodes at
    which the worker sits already is none for another of its slots.

    Args:
        last: a run that comes after all others.
    """
    at_work = (
        select(Run.owner, func.count().label("runs"))
        .where(Run.state.in_([state.value for state in LEASED]))
        .group_by(Run.owner)
        .subquery()
    )
    seated = select(GangMemberRow.run_id).where(GangMemberRow.worker == worker, GangMemberRow.lease_token.is_(None))
    order = [Run.priority.desc(), func.coalesce(at_work.c.runs, 0), Run.queued_at, Run.id]
    if last is not None:
        order.insert(0, case((Run.id == last, 1), else_=0))
    return (
        select(Run.id)
        .outerjoin(at_work, at_work.c.owner == Run.owner)
        .where(Run.state == State.QUEUED.value, can_be_served_by(offers), Run.id.not_in(seated))
        .order_by(*order)
        .limit(1)
        .with_for_update(of=Run, skip_locked=True)
    )


def unclaimed_runs(session: Session, before: datetime, offers: Sequence[str] = RESOURCES) -> list[str]:
    """Queued runs that a worker with these resources may take, and nobody has since ``before``."""
    unclaimed = func.coalesce(Run.ready_at, Run.queued_at) < before
    query = (
        select(Run.id)
        .where(Run.state == State.QUEUED.value, can_be_served_by(offers), unclaimed)
        .order_by(Run.priority.desc(), Run.queued_at, Run.id)
    )
    return list(session.scalars(query.limit(100)))


def can_be_served_by(offers: Sequence[str]) -> ColumnElement[bool]:
    """Of a run: whether a worker with these resources can serve it."""
    return Run.resource.in_([*offers, ANY_DEVICE])


def claim_next(
    session: Session,
    worker: str,
    lease_seconds: float = 30.0,
    offers: Sequence[str] = RESOURCES,
    given_up: str | None = None,
) -> Claim | MemberLease | None:
    """Take the next run in line (``lcl_core.db.queue``); None when there is none.

    Two workers never both win: PostgreSQL skips rows that another is taking, the update compares the state.

    Args:
        offers: what the worker has, of ``cpu`` and ``gpu``; a run that asks for another thing is left to others.
        given_up: a run of several nodes for which this worker has just waited in vain; it comes last in line.
    """
    waiting = next_candidate(worker, offers, given_up)
    while (run_id := session.scalars(waiting).one_or_none()) is not None:
        token = secrets.token_hex(16)
        nodes = session.scalars(select(Run.nodes).where(Run.id == run_id)).one()
        if nodes > 1:
            seat = join_gang(session, run_id, worker, token, nodes, lease_seconds)
            if seat is not None:
                return seat
        claim = _claim_run(session, run_id, token, worker, lease_seconds)
        if claim is not None:
            return claim
    return None


def _claim_run(session: Session, run_id: str, token: str, worker: str, lease_seconds: float) -> Claim | None:
    moment = now(session)
    taken = session.execute(
        update(Run)
        .where(Run.id == run_id, Run.state == State.QUEUED.value)
        .values(
            state=State.RUNNING.value,
            attempt=Run.attempt + 1,
            started_at=_first_start(moment),
            lease_token=token,
            lease_owner=worker,
            lease_expires_at=moment + timedelta(seconds=lease_seconds),
        )
        .execution_options(synchronize_session=False)
    )
    if not (isinstance(taken, CursorResult) and taken.rowcount == 1):
        return None
    run = session.get_one(Run, run_id, populate_existing=True)
    waited = max(0.0, (moment - (run.ready_at or run.queued_at)).total_seconds())
    return Claim.of(run, token, worker, waited_seconds=waited)


def _first_start(moment: datetime) -> Any:
    return func.coalesce(Run.started_at, literal(moment, Run.started_at.type))
