"""Job queue: order of the queued runs, and the claim of the next one.

Order: priority, then the owner with the fewest running runs, then the longest wait. A claim is a compare-and-swap on
the state; PostgreSQL skips rows that another worker has locked.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Select, case, func, literal, or_, select, update
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Session

from lcl_core.db.gang import MemberLease, join_gang
from lcl_core.db.leases import Claim
from lcl_core.db.models import GangMemberRow, Run
from lcl_core.db.session import now, sql_now
from lcl_core.db.states import LEASED, State
from lcl_core.jobs import ANY_DEVICE, RESOURCES


def claim_next(
    session: Session,
    worker: str,
    lease_seconds: float = 30.0,
    offers: Sequence[str] = RESOURCES,
    given_up: str | None = None,
) -> Claim | MemberLease | None:
    """Claim the next run for a worker, or a membership in the gang of a run of several nodes; None: there is none.

    Two workers never claim one run: PostgreSQL skips rows that another worker has locked, and the update compares the
    state.

    Args:
        offers: resources of the worker, of ``cpu`` and ``gpu``.
        given_up: a run whose gang this worker has left, not complete; it comes last.
    """
    due = or_(Run.ready_at.is_(None), Run.ready_at <= sql_now(session))  # one whose attempt failed may have to wait
    candidate = next_candidate(worker, offers, given_up).where(due)
    while (run_id := session.scalars(candidate).one_or_none()) is not None:
        token = secrets.token_hex(16)
        nodes = session.scalars(select(Run.nodes).where(Run.id == run_id)).one()
        if nodes > 1:
            membership = join_gang(session, run_id, worker, token, nodes, lease_seconds)
            if membership is not None:
                return membership
        claim = _claim_run(session, run_id, token, worker, lease_seconds)
        if claim is not None:
            return claim
    return None


def next_candidate(worker: str, offers: Sequence[str], last: str | None = None) -> Select[str]:
    """Query for the id of the next run of a worker; it locks the row and skips rows that others have locked.

    Owners without running runs come before owners with some, and among them the longest wait decides, so no owner
    starves. A run whose gang the worker has joined already is no candidate for its other slots.

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
    if last is not None:
        order.insert(0, case((Run.id == last, 1), else_=0))
    return (
        select(Run.id)
        .outerjoin(running, running.c.owner == Run.owner)
        .where(Run.state == State.QUEUED.value, can_be_served_by(offers), Run.id.not_in(joined))
        .order_by(*order)
        .limit(1)
        .with_for_update(of=Run, skip_locked=True)
    )


def unclaimed_runs(session: Session, before: datetime, offers: Sequence[str] = RESOURCES) -> list[str]:
    """Ids of queued runs that a worker with these resources could have claimed ``before`` that time; at most 100."""
    unclaimed = func.coalesce(Run.ready_at, Run.queued_at) < before
    query = (
        select(Run.id)
        .where(Run.state == State.QUEUED.value, can_be_served_by(offers), unclaimed)
        .order_by(Run.priority.desc(), Run.queued_at, Run.id)
    )
    return list(session.scalars(query.limit(100)))


def can_be_served_by(offers: Sequence[str]) -> ColumnElement[bool]:
    """Condition on a run: a worker with these resources can run it."""
    return Run.resource.in_([*offers, ANY_DEVICE])


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
