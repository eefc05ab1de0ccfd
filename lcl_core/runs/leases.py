"""Who works on a run. A worker holds a run by a token that expires; every write it makes names the token."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, literal, select, update
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Session

from lcl_core.runs.database import now
from lcl_core.runs.states import LEASED, State
from lcl_core.runs.tables import Run
from lcl_core.runs.verbs import move

RELEASED: dict[str, Any] = {"lease_token": None, "lease_owner": None, "lease_expires_at": None}


class StaleLease(Exception):
    """The run is no longer this worker's: whatever it wanted to write must be discarded."""


@dataclass(frozen=True)
class Claim:
    """The right to work on a run, and what a supervisor must know of it."""

    run_id: str
    token: str
    worker: str
    kind: str
    spec: dict[str, Any]
    attempt: int
    max_attempts: int
    from_scratch: bool
    ran_seconds: float


def claim_next(session: Session, worker: str, lease_seconds: float = 30.0) -> Claim | None:
    """Take the next queued run, highest priority first, then longest waiting; None when there is none.

    Two workers never both win: PostgreSQL skips rows that another is taking, the update compares the state.
    """
    waiting = (
        select(Run.id)
        .where(Run.state == State.QUEUED.value)
        .order_by(Run.priority.desc(), Run.queued_at, Run.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    while (run_id := session.scalars(waiting).one_or_none()) is not None:
        token, moment = secrets.token_hex(16), now(session)
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
        if isinstance(taken, CursorResult) and taken.rowcount == 1:
            run = session.get_one(Run, run_id, populate_existing=True)
            return _claim_of(run, token, worker)
    return None


def _first_start(moment: datetime) -> Any:
    return func.coalesce(Run.started_at, literal(moment, Run.started_at.type))


def _claim_of(run: Run, token: str, worker: str) -> Claim:
    return Claim(
        run_id=run.id,
        token=token,
        worker=worker,
        kind=run.kind,
        spec=run.spec,
        attempt=run.attempt,
        max_attempts=run.max_attempts,
        from_scratch=run.from_scratch,
        ran_seconds=run.ran_seconds,
    )


def held(session: Session, claim: Claim) -> Run:
    """The locked row of a run that ``claim`` still holds. Raises: StaleLease."""
    query = select(Run).where(Run.id == claim.run_id, Run.lease_token == claim.token).with_for_update(of=Run)
    run = session.scalars(query).one_or_none()
    if run is None:
        raise StaleLease(claim.run_id)
    return run


def look(session: Session, claim: Claim) -> State:
    """The state of a run that ``claim`` still holds; takes no lock. Raises: StaleLease."""
    query = select(Run.state).where(Run.id == claim.run_id, Run.lease_token == claim.token)
    state = session.scalars(query).one_or_none()
    if state is None:
        raise StaleLease(claim.run_id)
    return State(state)


def renew(session: Session, claim: Claim, lease_seconds: float = 30.0, ran_seconds: float | None = None) -> State:
    """Extend the lease from now on; returns the state. Raises: StaleLease."""
    run = held(session, claim)
    run.lease_expires_at = now(session) + timedelta(seconds=lease_seconds)
    if ran_seconds is not None:
        run.ran_seconds = ran_seconds
    return State(run.state)


def hand_back(session: Session, claim: Claim, *, uses_attempt: bool = False) -> State:
    """Give a run up unfinished, for another worker to resume. A run being cancelled ends cancelled instead.

    ``uses_attempt`` counts the attempt as a lost worker does. Raises: StaleLease.
    """
    run = held(session, claim)
    if run.state == State.RUNNING and not uses_attempt:
        run.attempt -= 1
        move(run, State.QUEUED, **RELEASED)
    else:
        _lose(run, now(session))
    return State(run.state)


def expire(session: Session) -> list[Run]:
    """Take runs from workers that let their lease run out: queue, fail or cancel them. Returns those runs."""
    moment = now(session)
    query = (
        select(Run)
        .where(Run.state.in_([state.value for state in LEASED]), Run.lease_expires_at < moment)
        .with_for_update(of=Run, skip_locked=True)
    )
    lost = list(session.scalars(query))
    for run in lost:
        _lose(run, moment)
    return lost


def any_expired(session: Session) -> bool:
    """Whether ``expire`` would find something; only reads."""
    query = select(Run.id).where(Run.state.in_([state.value for state in LEASED]), Run.lease_expires_at < now(session))
    return session.scalars(query.limit(1)).first() is not None


def waiting_since(session: Session, before: datetime) -> list[str]:
    """Queued runs that nobody claimed since ``before``, in the order in which they will be claimed."""
    query = (
        select(Run.id)
        .where(Run.state == State.QUEUED.value, Run.queued_at < before)
        .order_by(Run.priority.desc(), Run.queued_at, Run.id)
    )
    return list(session.scalars(query.limit(100)))


def _lose(run: Run, moment: datetime) -> None:
    """What becomes of a run whose worker is gone."""
    if run.state == State.CANCELLING:
        move(run, State.CANCELLED, finished_at=moment, **RELEASED)
    elif run.attempt >= run.max_attempts:
        reason = {
            "code": "worker_lost",
            "message": f"the worker was lost in each of {run.attempt} attempts, last {run.lease_owner}; "
            "look at its log and memory, then resume the run: it goes on from its last checkpoint",
        }
        move(run, State.FAILED, finished_at=moment, reason=reason, **RELEASED)
    else:
        move(run, State.QUEUED, **RELEASED)
