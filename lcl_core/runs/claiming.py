"""How a worker gets its next run, or a seat at one that several workers share."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, literal, select, update
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Session

from lcl_core.kinds import RESOURCES
from lcl_core.runs.database import now
from lcl_core.runs.leases import Claim
from lcl_core.runs.queue import next_in_line
from lcl_core.runs.seats import SeatClaim, take_seat
from lcl_core.runs.states import State
from lcl_core.runs.tables import Run


def claim_next(
    session: Session,
    worker: str,
    lease_seconds: float = 30.0,
    offers: Sequence[str] = RESOURCES,
    given_up: str | None = None,
) -> Claim | SeatClaim | None:
    """Take the next run in line (``lcl_core.runs.queue``); None when there is none.

    Two workers never both win: PostgreSQL skips rows that another is taking, the update compares the state.

    Args:
        offers: what the worker has, of ``cpu`` and ``gpu``; a run that asks for another thing is left to others.
        given_up: a run of several nodes for which this worker has just waited in vain; it comes last in line.
    """
    waiting = next_in_line(worker, offers, given_up)
    while (run_id := session.scalars(waiting).one_or_none()) is not None:
        token = secrets.token_hex(16)
        nodes = session.scalars(select(Run.nodes).where(Run.id == run_id)).one()
        if nodes > 1:
            seat = take_seat(session, run_id, worker, token, nodes, lease_seconds)
            if seat is not None:
                return seat
        claim = _take(session, run_id, token, worker, lease_seconds)
        if claim is not None:
            return claim
    return None


def _take(session: Session, run_id: str, token: str, worker: str, lease_seconds: float) -> Claim | None:
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
