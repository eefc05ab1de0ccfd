"""Which queued run comes next: by priority, then the owner with the least at work, then who has waited longest."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Select, case, func, select
from sqlalchemy.orm import Session

from lcl_core.kinds import ANY, RESOURCES
from lcl_core.runs.states import LEASED, State
from lcl_core.runs.tables import Run, Seat


def next_in_line(worker: str, offers: Sequence[str], last: str | None = None) -> Select[str]:
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
    seated = select(Seat.run_id).where(Seat.worker == worker, Seat.lease_token.is_(None))
    order = [Run.priority.desc(), func.coalesce(at_work.c.runs, 0), Run.queued_at, Run.id]
    if last is not None:
        order.insert(0, case((Run.id == last, 1), else_=0))
    return (
        select(Run.id)
        .outerjoin(at_work, at_work.c.owner == Run.owner)
        .where(Run.state == State.QUEUED.value, served(offers), Run.id.not_in(seated))
        .order_by(*order)
        .limit(1)
        .with_for_update(of=Run, skip_locked=True)
    )


def waiting_since(session: Session, before: datetime, offers: Sequence[str] = RESOURCES) -> list[str]:
    """Queued runs that a worker with these resources may take, and nobody has since ``before``."""
    unclaimed = func.coalesce(Run.ready_at, Run.queued_at) < before
    query = (
        select(Run.id)
        .where(Run.state == State.QUEUED.value, served(offers), unclaimed)
        .order_by(Run.priority.desc(), Run.queued_at, Run.id)
    )
    return list(session.scalars(query.limit(100)))


def served(offers: Sequence[str]) -> ColumnElement[bool]:
    """Of a run: whether a worker with these resources can serve it."""
    return Run.resource.in_([*offers, ANY])
