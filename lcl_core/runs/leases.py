"""Who works on a run. A worker holds a run by a token that expires; every write it makes names the token."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from lcl_core.kinds import ANY
from lcl_core.runs.database import now
from lcl_core.runs.states import FINISHED, LEASED, State
from lcl_core.runs.tables import Run
from lcl_core.runs.tallies import LEASE_LOSSES, RUN_DURATION, Tick, tally
from lcl_core.runs.transitions import move

RELEASED: dict[str, Any] = {"lease_token": None, "lease_owner": None, "lease_expires_at": None}


_TOLD = ("kind", "spec", "attempt", "max_attempts", "from_scratch", "ran_seconds", "continues", "resource", "nodes")


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
    continues: str | None = None
    resource: str = ANY
    nodes: int = 1
    node: int = 0  # of those: 0 holds the lease
    waited_seconds: float = 0.0  # from when the run could have been taken

    @classmethod
    def of(cls, run: Run, token: str, worker: str, **more: Any) -> Claim:
        """What a row says, for the holder of ``token``."""
        return cls(run_id=run.id, token=token, worker=worker, **{name: getattr(run, name) for name in _TOLD}, **more)


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


def hand_back(
    session: Session, claim: Claim, *, uses_attempt: bool = False, cause: str = "the worker gave it back"
) -> State:
    """Give a run up unfinished, for another worker to resume. One being paused or cancelled ends so instead.

    ``uses_attempt`` counts the attempt as a lost worker does. Raises: StaleLease.
    """
    run, moment = held(session, claim), now(session)
    run.interruption = {"code": "handed_back", "message": f"{cause}, in attempt {run.attempt}"}
    if uses_attempt or run.state == State.CANCELLING:
        _lose(run, moment)
    else:
        run.attempt -= 1
        _let_go(run, moment)
    tally(session, ticks_of_end(run))
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
        told = f"worker {run.lease_owner} was lost in attempt {run.attempt} of {run.max_attempts}"
        run.interruption = {"code": "worker_lost", "message": told}
        _lose(run, moment)
    tally(session, [tick for run in lost for tick in (LEASE_LOSSES.tick(kind=run.kind), *ticks_of_end(run))])
    return lost


def ticks_of_end(run: Run) -> list[Tick]:
    """What to count of a run that a worker has just let go: nothing, unless that was its end."""
    if run.state not in FINISHED:
        return []
    return [RUN_DURATION.tick(run.ran_seconds, kind=run.kind, state=run.state)]


def any_expired(session: Session) -> bool:
    """Whether ``expire`` would find something; only reads."""
    query = select(Run.id).where(Run.state.in_([state.value for state in LEASED]), Run.lease_expires_at < now(session))
    return session.scalars(query.limit(1)).first() is not None


def _let_go(run: Run, moment: datetime) -> None:
    """A run that is unfinished through no fault of its own goes back to where it came from, or is paused."""
    if run.state == State.PAUSING:
        move(run, State.PAUSED, **RELEASED)
    else:
        move(run, State.QUEUED, ready_at=moment, **RELEASED)


def _lose(run: Run, moment: datetime) -> None:
    """What becomes of a run whose worker is gone."""
    if run.state == State.CANCELLING:
        move(run, State.CANCELLED, finished_at=moment, **RELEASED)
    elif run.state == State.RUNNING and run.attempt >= run.max_attempts:
        reason = {
            "code": "worker_lost",
            "message": f"the worker was lost in each of {run.attempt} attempts, last {run.lease_owner}; "
            "look at its log and memory, then resume the run: it goes on from its last checkpoint",
        }
        move(run, State.FAILED, finished_at=moment, reason=reason, **RELEASED)
    else:
        _let_go(run, moment)
