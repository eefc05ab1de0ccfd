"""Gang scheduling: a run of N nodes starts when N workers have joined.

Workers join one after the other and wait. The worker that completes the gang gets the run's lease and is node 0; the
others work under that lease. When the lease or a member is lost, the attempt ends for all members.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from lcl_core.db.leases import Claim, StaleLease
from lcl_core.db.models import GangMemberRow, Run
from lcl_core.db.session import now
from lcl_core.db.states import State


@dataclass(frozen=True)
class MemberLease:
    """The right to wait for the others, and to work with them once all are there."""

    run_id: str
    token: str
    worker: str


@dataclass(frozen=True)
class Rendezvous:
    """All are seated and the run's folder is ready: the process may start."""

    claim: Claim  # of the whole run, as node 0 has it
    address: str  # HOST:PORT where all meet


@dataclass(frozen=True)
class MemberFailure:
    """How a node ended that did not end in order. ``reason``: of a run that another attempt would not help."""

    worker: str
    message: str
    uses_attempt: bool = True
    reason: dict[str, Any] | None = None


def join_gang(
    session: Session, run_id: str, worker: str, lease_token: str, nodes: int, seconds: float
) -> MemberLease | None:
    """Sit down at a run whose row is locked. None: that was the last seat; all are under ``lease_token`` now."""
    moment = now(session)
    mine_or_over = or_(
        GangMemberRow.worker == worker, GangMemberRow.expires_at < moment, GangMemberRow.lease_token.is_not(None)
    )
    session.execute(delete(GangMemberRow).where(GangMemberRow.run_id == run_id, mine_or_over))
    seat = GangMemberRow(run_id=run_id, worker=worker, token=secrets.token_hex(16))
    seat.expires_at = moment + timedelta(seconds=seconds)
    others = session.scalars(
        select(GangMemberRow).where(GangMemberRow.run_id == run_id).order_by(GangMemberRow.worker)
    ).all()
    session.add(seat)
    if len(others) + 1 < nodes:
        session.flush()
        return MemberLease(run_id, seat.token, worker)
    for number, each in enumerate([seat, *others]):
        each.number, each.lease_token = number, lease_token
    session.flush()
    return None


def check_member_lease(session: Session, mine: MemberLease) -> Rendezvous | None:
    """None while others are missing or node 0 makes ready. Raises: StaleLease once the run is not theirs any more."""
    query = select(GangMemberRow, Run).join(Run, Run.id == GangMemberRow.run_id)
    found = (
        session.execute(query.where(GangMemberRow.run_id == mine.run_id, GangMemberRow.token == mine.token))
        .tuples()
        .one_or_none()
    )
    if found is None:
        raise StaleLease(mine.run_id)
    seat, run = found
    if seat.lease_token is None and run.state == State.QUEUED:
        return None
    if seat.lease_token is None or seat.lease_token != run.lease_token:
        raise StaleLease(mine.run_id)
    meeting = select(GangMemberRow.address).where(GangMemberRow.run_id == mine.run_id, GangMemberRow.number == 0)
    address = session.scalars(meeting).one_or_none()
    claim = Claim.of(run, seat.lease_token, mine.worker, node=seat.number or 0)
    return None if address is None else Rendezvous(claim, address)


def renew_member_lease(session: Session, mine: MemberLease, seconds: float) -> None:
    """Raises: StaleLease."""
    _lock_member(session, mine).expires_at = now(session) + timedelta(seconds=seconds)


def release_member(session: Session, mine: MemberLease, *, only_waiting: bool = False) -> bool:
    """Give the place to others. Returns: whether it was there (and, if ``only_waiting``, others were missing)."""
    query = (
        select(GangMemberRow)
        .where(GangMemberRow.run_id == mine.run_id, GangMemberRow.token == mine.token)
        .with_for_update()
    )
    seat = session.scalars(query).one_or_none()
    if seat is None or (only_waiting and seat.lease_token is not None):
        return False
    session.delete(seat)
    return True


def record_member_exit(session: Session, mine: MemberLease, loss: MemberFailure | None) -> None:
    """Tell node 0 how this node ended; None: in order. Raises: StaleLease."""
    seat = _lock_member(session, mine)
    seat.ending = (
        {} if loss is None else {"message": loss.message, "uses_attempt": loss.uses_attempt, "reason": loss.reason}
    )


def set_rendezvous(session: Session, claim: Claim, address: str) -> None:
    """Node 0 calls the others. Raises: StaleLease."""
    query = select(GangMemberRow).where(
        GangMemberRow.run_id == claim.run_id, GangMemberRow.lease_token == claim.token, GangMemberRow.number == 0
    )
    seat = session.scalars(query.with_for_update()).one_or_none()
    if seat is None:
        raise StaleLease(claim.run_id)
    seat.address = address


def member_failures(session: Session, claim: Claim) -> tuple[list[MemberFailure], bool]:
    """What node 0 learns of the others: who ended out of order or was lost, and whether all have ended somehow."""
    if claim.nodes == 1:
        return [], True
    query = select(GangMemberRow).where(
        GangMemberRow.run_id == claim.run_id, GangMemberRow.lease_token == claim.token, GangMemberRow.number > 0
    )
    seats: Sequence[GangMemberRow] = session.scalars(query.order_by(GangMemberRow.number)).all()
    moment, found = now(session), []
    for seat in seats:
        if seat.ending:
            found.append(MemberFailure(seat.worker, **seat.ending))
        elif seat.ending is None and seat.expires_at < moment:
            found.append(MemberFailure(seat.worker, f"worker {seat.worker}, node {seat.number} of the run, was lost"))
    missing = claim.nodes - 1 - len(seats)
    if missing:  # only a worker that leaves before the start does so without a word
        found.append(MemberFailure("", "a worker left before the start", uses_attempt=False))
    in_order = sum(seat.ending == {} for seat in seats)
    return found, len(found) + in_order >= claim.nodes - 1


def _lock_member(session: Session, mine: MemberLease) -> GangMemberRow:
    query = (
        select(GangMemberRow)
        .where(GangMemberRow.run_id == mine.run_id, GangMemberRow.token == mine.token)
        .with_for_update()
    )
    seat = session.scalars(query).one_or_none()
    if seat is None:
        raise StaleLease(mine.run_id)
    return seat
