"""Job queue: order of the queued runs, and the claim of the next one.

Order: priority, then the owner with the fewest running runs, then the longest wait. When a run of several nodes is next
says ``lcl_core.db.gang``. A claim is a compare-and-swap on the state; PostgreSQL skips rows that another worker
has locked.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Select, func, literal, select, update
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Session

from lcl_core.db.gang import MemberLease, Reservation, find_reservation, join_gang, release_member, running_by_owner
from lcl_core.db.leases import Claim
from lcl_core.db.models import Run
from lcl_core.db.session import now
from lcl_core.db.states import State
from lcl_core.jobs import ANY_DEVICE, RESOURCES


def claim_next(
    session: Session,
    worker: str,
    lease_seconds: float = 30.0,
    offers: Sequence[str] = RESOURCES,
    seat: MemberLease | None = None,
) -> Claim | MemberLease | None:
    """Claim the next run for a worker, or a membership in the gang of a run of several nodes; None: there is none.

    Two workers never claim one run: PostgreSQL skips rows that another worker has locked, and the update compares the
    state.

    Args:
        offers: resources of the worker, of ``cpu`` and ``gpu``.
        seat: membership with which the worker waits. It is returned while the worker is to go on waiting, and given up
            for what is returned otherwise.
    """
    while True:
        reservation = find_reservation(session, worker, offers, seat.run_id if seat else None)
        run_id = session.scalars(next_candidate(offers, reservation)).one_or_none()
        gang = reservation.run_id if reservation is not None and run_id is None else None
        if seat is not None:
            if gang == seat.run_id or not release_member(session, seat, only_waiting=True):
                return seat  # or the gang is complete, or the membership has expired: its holder sees that
            seat = None
        if run_id is None and gang is None:
            return None
        token = secrets.token_hex(16)
        if gang is not None:
            nodes = _lock_gang(session, gang, worker, offers)
            if nodes is None:
                continue
            membership = join_gang(session, gang, worker, token, nodes, lease_seconds)
            if membership is not None:
                return membership
        claim = _claim_run(session, run_id or gang or "", token, worker, lease_seconds)
        if claim is not None:
            return claim


def next_candidate(offers: Sequence[str], reservation: Reservation | None = None) -> Select[str]:
    """Query for the id of the next run of one node; it locks the row and skips rows that others have locked.

    Owners without running runs come before owners with some, and among them the longest wait decides, so no owner
    starves.

    Args:
        reservation: of the worker for a run of several nodes; only runs that may go before that one are candidates.
    """
    owners = running_by_owner()
    running = func.coalesce(owners.c.runs, 0)
    query = (
        select(Run.id)
        .outerjoin(owners, owners.c.owner == Run.owner)
        .where(Run.state == State.QUEUED.value, Run.nodes == 1, can_be_served_by(offers))
        .order_by(Run.priority.desc(), running, Run.queued_at, Run.id)
    )
    if reservation is not None:
        query = query.where(reservation.admits(running))
    return query.limit(1).with_for_update(of=Run, skip_locked=True)


def _lock_gang(session: Session, run_id: str, worker: str, offers: Sequence[str]) -> int | None:
    """Lock the row of a run of several nodes, waiting for others that join. Returns: the number of its nodes.

    None: the run does not reserve this worker any more, which others have changed meanwhile.
    """
    query = select(Run).where(Run.id == run_id, Run.state == State.QUEUED.value).with_for_update(of=Run)
    run = session.scalars(query.execution_options(populate_existing=True)).one_or_none()
    reservation = find_reservation(session, worker, offers)
    if run is None or reservation is None or reservation.run_id != run_id:
        return None
    run.reserved_at = run.reserved_at or now(session)
    return run.nodes


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
