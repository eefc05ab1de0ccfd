"""How the house stands at this moment: what waits, who works. Only reads."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from lcl_core.runs.database import now
from lcl_core.runs.states import LEASED, State
from lcl_core.runs.tables import Run, Seat, Worker

SEEN_WITHIN = timedelta(seconds=30)  # six signs of life; a worker that gave none is not counted


@dataclass(frozen=True)
class Queue:
    """Runs of one kind and class that a worker may take."""

    kind: str
    resource: str  # the class
    depth: int
    oldest_seconds: float  # since the first of them could have been taken; 0 when there is none


@dataclass(frozen=True)
class Crew:
    """The workers that are alive."""

    workers: int
    slots: int
    slots_used: int  # runs that some worker holds, and seats of those who wait to share one or do
    consumed_seconds: float | None  # since the last message was taken off the broker; None: never yet


def queues(session: Session) -> list[Queue]:
    """One for each kind and class that has runs in the queue."""
    moment = now(session)
    ready = func.min(func.coalesce(Run.ready_at, Run.queued_at), type_=Run.queued_at.type)
    query = (
        select(Run.kind, Run.resource, func.count(), ready)
        .where(Run.state == State.QUEUED.value)
        .group_by(Run.kind, Run.resource)
        .order_by(Run.kind, Run.resource)
    )
    found = session.execute(query).tuples()
    return [Queue(kind, resource, depth, _since(moment, oldest)) for kind, resource, depth, oldest in found]


def crew(session: Session) -> Crew:
    """Workers that gave a sign of life lately, and what they hold."""
    moment = now(session)
    alive = select(func.count(), func.coalesce(func.sum(Worker.slots), 0), func.max(Worker.consumed_at)).where(
        Worker.seen_at >= moment - SEEN_WITHIN
    )
    workers, slots, consumed = session.execute(alive).tuples().one()
    held = select(func.count()).select_from(Run).where(Run.state.in_([state.value for state in LEASED]))
    beside = func.coalesce(Seat.number, 1) > 0  # the leader's is in the count of runs
    seats = select(func.count()).select_from(Seat).where(beside, Seat.expires_at >= moment, Seat.ending.is_(None))
    used = session.scalars(held).one() + session.scalars(seats).one()
    return Crew(workers, slots, used, None if consumed is None else _since(moment, consumed))


def gpus_in_use(session: Session) -> list[tuple[str, int, dict[str, Any]]]:
    """Worker, number of a GPU there, and what it was doing (see ``roster.beat``), of the workers that are alive."""
    query = select(Worker.id, Worker.gpus).where(Worker.seen_at >= now(session) - SEEN_WITHIN).order_by(Worker.id)
    found = session.execute(query).tuples()
    return [(worker, number, use) for worker, uses in found for number, use in enumerate(uses)]


def _since(moment: datetime, earlier: datetime) -> float:
    return max(0.0, (moment - earlier).total_seconds())
