"""Gang scheduling: a run of N nodes starts when N workers have joined.

Workers join one after the other and wait. The worker that completes the gang gets the run's lease and is node 0; the
others work under that lease. When the lease or a member is lost, the attempt ends for all members.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, or_, select
from sqlalchemy.orm import Session

from lcl_core.db.leases import Claim, StaleLease
from lcl_core.db.models import GangMemberRow, Run, Worker
from lcl_core.db.session import now
from lcl_core.db.states import State


@dataclass(frozen=True)
class MemberLease:
    """A worker's membership in the gang of a run, valid while the worker renews it."""

    run_id: str
    token: str
    worker: str


@dataclass(frozen=True)
class Rendezvous:
    """The gang is complete and the run directory is ready: the process of this node may start."""

    claim: Claim  # of the run, with the number of this node
    address: str  # HOST:PORT of node 0


@dataclass(frozen=True)
class MemberFailure:
    """Failure of a node.

    Attributes:
        reason: {"code", "message", …} of a failure that another attempt would repeat.
    """

    worker: str
    message: str
    uses_attempt: bool = True
    reason: dict[str, Any] | None = None


def join_gang(
    session: Session, run_id: str, worker: str, lease_token: str, nodes: int, seconds: float
) -> MemberLease | None:
    """Join the gang of a run whose row the caller has locked.

    Returns: None when the gang is complete; all members work under ``lease_token`` then.
    """
    moment = now(session)
    replaced = or_(
        GangMemberRow.worker == worker, GangMemberRow.expires_at < moment, GangMemberRow.lease_token.is_not(None)
    )
    session.execute(delete(GangMemberRow).where(GangMemberRow.run_id == run_id, replaced))
    member = GangMemberRow(run_id=run_id, worker=worker, token=secrets.token_hex(16))
    member.expires_at = moment + timedelta(seconds=seconds)
    query = select(GangMemberRow).where(GangMemberRow.run_id == run_id).order_by(GangMemberRow.worker)
    others = session.scalars(query.with_for_update()).all()  # one that leaves meanwhile is waited for, and not found
    session.add(member)
    if len(others) + 1 < nodes:
        session.flush()
        return MemberLease(run_id, member.token, worker)
    for number, each in enumerate([member, *others]):
        each.number, each.lease_token = number, lease_token
    session.flush()
    return None


def check_member_lease(session: Session, membership: MemberLease) -> Rendezvous | None:
    """The rendezvous; None while members are missing or node 0 prepares.

    Raises: StaleLease when this member, or the gang's lease, has expired.
    """
    query = select(GangMemberRow, Run).join(Run, Run.id == GangMemberRow.run_id)
    row = session.execute(query.where(_is_member(membership))).tuples().one_or_none()
    if row is None:
        raise StaleLease(membership.run_id)
    member, run = row
    if member.lease_token is None and run.state == State.QUEUED:
        return None
    if member.lease_token is None or member.lease_token != run.lease_token:
        raise StaleLease(membership.run_id)
    leader = GangMemberRow.run_id == membership.run_id, GangMemberRow.number == 0
    address = session.scalars(select(GangMemberRow.address).where(*leader)).one_or_none()
    claim = Claim.of(run, member.lease_token, membership.worker, node=member.number or 0)
    return None if address is None else Rendezvous(claim, address)


def renew_member_lease(session: Session, membership: MemberLease, seconds: float) -> None:
    """Raises: StaleLease."""
    _lock_member(session, membership).expires_at = now(session) + timedelta(seconds=seconds)


def release_member(session: Session, membership: MemberLease, *, only_waiting: bool = False) -> bool:
    """Leave the gang.

    Args:
        only_waiting: only while members are missing.

    Returns: whether the member has left.
    """
    member = session.scalars(select(GangMemberRow).where(_is_member(membership)).with_for_update()).one_or_none()
    if member is None or (only_waiting and member.lease_token is not None):
        return False
    session.delete(member)
    return True


def record_member_exit(session: Session, membership: MemberLease, failure: MemberFailure | None) -> None:
    """Record for node 0 how the process of this node ended; None: it succeeded. Raises: StaleLease."""
    member = _lock_member(session, membership)
    member.ending = {}
    if failure is not None:
        member.ending = {"message": failure.message, "uses_attempt": failure.uses_attempt, "reason": failure.reason}


def set_rendezvous(session: Session, claim: Claim, address: str) -> None:
    """Publish the address of node 0 to the other nodes. Raises: StaleLease."""
    query = select(GangMemberRow).where(
        GangMemberRow.run_id == claim.run_id, GangMemberRow.lease_token == claim.token, GangMemberRow.number == 0
    )
    member = session.scalars(query.with_for_update()).one_or_none()
    if member is None:
        raise StaleLease(claim.run_id)
    member.address = address


def gang_hosts(session: Session, claim: Claim) -> set[str]:
    """Names of the hosts of all nodes, as far as their workers are alive."""
    query = select(Worker.host).join(GangMemberRow, GangMemberRow.worker == Worker.id)
    works = GangMemberRow.run_id == claim.run_id, GangMemberRow.lease_token == claim.token
    return set(session.scalars(query.where(*works)))


def member_failures(session: Session, claim: Claim) -> tuple[list[MemberFailure], bool]:
    """Failures and lost workers among the nodes above 0, and whether all these nodes have ended."""
    if claim.nodes == 1:
        return [], True
    query = select(GangMemberRow).where(
        GangMemberRow.run_id == claim.run_id, GangMemberRow.lease_token == claim.token, GangMemberRow.number > 0
    )
    members = session.scalars(query.order_by(GangMemberRow.number)).all()
    moment, failures = now(session), []
    for member in members:
        if member.ending:
            failures.append(MemberFailure(member.worker, **member.ending))
        elif member.ending is None and member.expires_at < moment:
            message = f"worker {member.worker}, node {member.number} of the run, was lost"
            failures.append(MemberFailure(member.worker, message))
    if len(members) < claim.nodes - 1:  # a row is missing only if its worker left before the start
        failures.append(MemberFailure("", "a worker left before the start", uses_attempt=False))
    succeeded = sum(member.ending == {} for member in members)
    return failures, len(failures) + succeeded >= claim.nodes - 1


def _lock_member(session: Session, membership: MemberLease) -> GangMemberRow:
    """Raises: StaleLease."""
    member = session.scalars(select(GangMemberRow).where(_is_member(membership)).with_for_update()).one_or_none()
    if member is None:
        raise StaleLease(membership.run_id)
    return member


def _is_member(membership: MemberLease) -> ColumnElement[bool]:
    return and_(GangMemberRow.run_id == membership.run_id, GangMemberRow.token == membership.token)
