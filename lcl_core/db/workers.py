"""Worker processes: heartbeats, and the load of the queue and of the workers at this moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from lcl_core.db.models import GangMemberRow, Run, Worker
from lcl_core.db.session import now
from lcl_core.db.states import LEASED, State

FORGET_AFTER = timedelta(minutes=10)


@dataclass(frozen=True)
class WorkerIdentity:
    """Facts of a worker process that do not change."""

    id: str
    host: str
    pid: int
    slots: int
    devices: tuple[str, ...]
    offers: tuple[str, ...] = ("cpu",)


def record_heartbeat(session: Session, worker: WorkerIdentity, gpus: Sequence[dict[str, Any]] = ()) -> None:
    """Say that the worker is alive; the first call makes its row. Workers long unseen are forgotten.

    Args:
        gpus: what each of its GPUs is doing: name, utilization (0–1), memory_used and memory_total (bytes); a figure
            that is not known is None.
    """
    moment = now(session)
    row = session.get(Worker, worker.id)
    if row is None:
        facts = {**asdict(worker), "devices": list(worker.devices), "offers": list(worker.offers)}
        session.add(Worker(started_at=moment, seen_at=moment, gpus=list(gpus), **facts))
    else:
        row.seen_at, row.gpus = moment, list(gpus)
    session.execute(delete(Worker).where(Worker.seen_at < moment - FORGET_AFTER))


def record_wakeup(session: Session, worker_id: str) -> None:
    """Note that the worker took a message off the broker just now."""
    session.execute(update(Worker).where(Worker.id == worker_id).values(consumed_at=now(session)))


def deregister(session: Session, worker_id: str) -> None:
    """Forget a worker that ends in order."""
    session.execute(delete(Worker).where(Worker.id == worker_id))


ALIVE_WITHIN = timedelta(seconds=30)  # six signs of life; a worker that gave none is not counted


@dataclass(frozen=True)
class QueueDepth:
    """Runs of one kind and class that a worker may take."""

    kind: str
    resource: str  # the class
    depth: int
    oldest_seconds: float  # since the first of them could have been taken; 0 when there is none


@dataclass(frozen=True)
class WorkerStats:
    """The workers that are alive."""

    workers: int
    slots: int
    slots_used: int  # runs that some worker holds, and seats of those who wait to share one or do
    consumed_seconds: float | None  # since the last message was taken off the broker; None: never yet


def queue_depths(session: Session) -> list[QueueDepth]:
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
    return [
        QueueDepth(kind, resource, depth, _seconds_since(moment, oldest)) for kind, resource, depth, oldest in found
    ]


def worker_stats(session: Session) -> WorkerStats:
    """Workers that gave a sign of life lately, and what they hold."""
    moment = now(session)
    alive = select(func.count(), func.coalesce(func.sum(Worker.slots), 0), func.max(Worker.consumed_at)).where(
        Worker.seen_at >= moment - ALIVE_WITHIN
    )
    workers, slots, consumed = session.execute(alive).tuples().one()
    held = select(func.count()).select_from(Run).where(Run.state.in_([state.value for state in LEASED]))
    beside = func.coalesce(GangMemberRow.number, 1) > 0  # the leader's is in the count of runs
    seats = (
        select(func.count())
        .select_from(GangMemberRow)
        .where(beside, GangMemberRow.expires_at >= moment, GangMemberRow.ending.is_(None))
    )
    used = session.scalars(held).one() + session.scalars(seats).one()
    return WorkerStats(workers, slots, used, None if consumed is None else _seconds_since(moment, consumed))


def gpu_usage(session: Session) -> list[tuple[str, int, dict[str, Any]]]:
    """Worker, number of a GPU there, and what it was doing (see ``roster.beat``), of the workers that are alive."""
    query = select(Worker.id, Worker.gpus).where(Worker.seen_at >= now(session) - ALIVE_WITHIN).order_by(Worker.id)
    found = session.execute(query).tuples()
    return [(worker, number, use) for worker, uses in found for number, use in enumerate(uses)]


def _seconds_since(moment: datetime, earlier: datetime) -> float:
    return max(0.0, (moment - earlier).total_seconds())
