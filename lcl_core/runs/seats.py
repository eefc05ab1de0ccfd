"""Runs of several nodes: each is taken by as many workers, all or none.

Workers sit down one after the other and wait. Who takes the last seat gets the run's lease and is node 0, the others
work under that lease: when it is lost, or one of them is, the attempt is over for all.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from lcl_core.runs.database import now
from lcl_core.runs.leases import Claim, StaleLease
from lcl_core.runs.states import State
from lcl_core.runs.tables import Run, Seat


@dataclass(frozen=True)
class SeatClaim:
    """The right to wait for the others, and to work with them once all are there."""

    run_id: str
    token: str
    worker: str


@dataclass(frozen=True)
class Call:
    """All are seated and the run's folder is ready: the process may start."""

    claim: Claim  # of the whole run, as node 0 has it
    address: str  # HOST:PORT where all meet


@dataclass(frozen=True)
class Loss:
    """How a node ended that did not end in order. ``reason``: of a run that another attempt would not help."""

    worker: str
    message: str
    uses_attempt: bool = True
    reason: dict[str, Any] | None = None


def take_seat(
    session: Session, run_id: str, worker: str, lease_token: str, nodes: int, seconds: float
) -> SeatClaim | None:
    """Sit down at a run whose row is locked. None: that was the last seat; all are under ``lease_token`` now."""
    moment = now(session)
    mine_or_over = or_(Seat.worker == worker, Seat.expires_at < moment, Seat.lease_token.is_not(None))
    session.execute(delete(Seat).where(Seat.run_id == run_id, mine_or_over))
    seat = Seat(run_id=run_id, worker=worker, token=secrets.token_hex(16))
    seat.expires_at = moment + timedelta(seconds=seconds)
    others = session.scalars(select(Seat).where(Seat.run_id == run_id).order_by(Seat.worker)).all()
    session.add(seat)
    if len(others) + 1 < nodes:
        session.flush()
        return SeatClaim(run_id, seat.token, worker)
    for number, each in enumerate([seat, *others]):
        each.number, each.lease_token = number, lease_token
    session.flush()
    return None


def look_at_seat(session: Session, mine: SeatClaim) -> Call | None:
    """None while others are missing or node 0 makes ready. Raises: StaleLease once the run is not theirs any more."""
    query = select(Seat, Run).join(Run, Run.id == Seat.run_id)
    found = session.execute(query.where(Seat.run_id == mine.run_id, Seat.token == mine.token)).tuples().one_or_none()
    if found is None:
        raise StaleLease(mine.run_id)
    seat, run = found
    if seat.lease_token is None and run.state == State.QUEUED:
        return None
    if seat.lease_token is None or seat.lease_token != run.lease_token:
        raise StaleLease(mine.run_id)
    meeting = select(Seat.address).where(Seat.run_id == mine.run_id, Seat.number == 0)
    address = session.scalars(meeting).one_or_none()
    claim = Claim.of(run, seat.lease_token, mine.worker, node=seat.number or 0)
    return None if address is None else Call(claim, address)


def renew_seat(session: Session, mine: SeatClaim, seconds: float) -> None:
    """Raises: StaleLease."""
    _mine(session, mine).expires_at = now(session) + timedelta(seconds=seconds)


def leave_seat(session: Session, mine: SeatClaim, *, only_waiting: bool = False) -> bool:
    """Give the place to others. Returns: whether it was there (and, if ``only_waiting``, others were missing)."""
    query = select(Seat).where(Seat.run_id == mine.run_id, Seat.token == mine.token).with_for_update()
    seat = session.scalars(query).one_or_none()
    if seat is None or (only_waiting and seat.lease_token is not None):
        return False
    session.delete(seat)
    return True


def end_seat(session: Session, mine: SeatClaim, loss: Loss | None) -> None:
    """Tell node 0 how this node ended; None: in order. Raises: StaleLease."""
    seat = _mine(session, mine)
    seat.ending = (
        {} if loss is None else {"message": loss.message, "uses_attempt": loss.uses_attempt, "reason": loss.reason}
    )


def open_meeting(session: Session, claim: Claim, address: str) -> None:
    """Node 0 calls the others. Raises: StaleLease."""
    query = select(Seat).where(Seat.run_id == claim.run_id, Seat.lease_token == claim.token, Seat.number == 0)
    seat = session.scalars(query.with_for_update()).one_or_none()
    if seat is None:
        raise StaleLease(claim.run_id)
    seat.address = address


def losses(session: Session, claim: Claim) -> tuple[list[Loss], bool]:
    """What node 0 learns of the others: who ended out of order or was lost, and whether all have ended somehow."""
    if claim.nodes == 1:
        return [], True
    query = select(Seat).where(Seat.run_id == claim.run_id, Seat.lease_token == claim.token, Seat.number > 0)
    seats: Sequence[Seat] = session.scalars(query.order_by(Seat.number)).all()
    moment, found = now(session), []
    for seat in seats:
        if seat.ending:
            found.append(Loss(seat.worker, **seat.ending))
        elif seat.ending is None and seat.expires_at < moment:
            found.append(Loss(seat.worker, f"worker {seat.worker}, node {seat.number} of the run, was lost"))
    missing = claim.nodes - 1 - len(seats)
    if missing:  # only a worker that leaves before the start does so without a word
        found.append(Loss("", "a worker left before the start", uses_attempt=False))
    in_order = sum(seat.ending == {} for seat in seats)
    return found, len(found) + in_order >= claim.nodes - 1


def _mine(session: Session, mine: SeatClaim) -> Seat:
    query = select(Seat).where(Seat.run_id == mine.run_id, Seat.token == mine.token).with_for_update()
    seat = session.scalars(query).one_or_none()
    if seat is None:
        raise StaleLease(mine.run_id)
    return seat
