"""Worker processes: heartbeats, and the load of the queue and of the workers at this moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.orm import Session

from lcl_core.db.models import GangMemberRow, Run, TaskLease, Worker
from lcl_core.db.session import dialect_insert, now
from lcl_core.db.states import LEASED, State

FORGET_AFTER = timedelta(minutes=10)
ALIVE_WITHIN = timedelta(seconds=30)  # six heartbeats


@dataclass(frozen=True)
class WorkerIdentity:
    """What does not change about a worker process."""

    id: str
    host: str
    pid: int
    slots: int
    devices: tuple[str, ...]
    offers: tuple[str, ...] = ("cpu",)
    home: str | None = None  # id of its home folder


def record_heartbeat(session: Session, worker: WorkerIdentity, gpus: Sequence[dict[str, Any]] = ()) -> None:
    """Record that the worker is alive; the first call inserts its row. Workers without recent heartbeats are deleted.

    Args:
        gpus: use of each GPU: name, utilization (0–1), memory_used and memory_total (bytes); None where not known.
    """
    moment = now(session)
    row = session.get(Worker, worker.id)
    if row is None:
        columns = {**asdict(worker), "devices": list(worker.devices), "offers": list(worker.offers)}
        session.add(Worker(started_at=moment, seen_at=moment, gpus=list(gpus), **columns))
    else:
        row.seen_at, row.gpus = moment, list(gpus)
    session.execute(delete(Worker).where(Worker.seen_at < moment - FORGET_AFTER))


def record_wakeup(session: Session, worker_id: str) -> None:
    """Record that the worker has just received a message from the broker."""
    session.execute(update(Worker).where(Worker.id == worker_id).values(consumed_at=now(session)))


def deregister(session: Session, worker_id: str) -> None:
    """Delete the row of a worker that shuts down."""
    session.execute(delete(Worker).where(Worker.id == worker_id))


def claim_task(session: Session, name: str, worker_id: str, seconds: float) -> bool:
    """Claim or renew a periodic task that one worker does for all. Returns: whether it is this worker's."""
    moment = now(session)
    values = {"worker": worker_id, "expires_at": moment + timedelta(seconds=seconds)}
    statement = dialect_insert(session, TaskLease).values(name=name, **values)
    claimable = or_(TaskLease.expires_at < moment, TaskLease.worker == worker_id)
    claimed = session.execute(
        statement.on_conflict_do_update(index_elements=["name"], set_=values, where=claimable).returning(TaskLease.name)
    )
    return claimed.one_or_none() is not None


def release_task(session: Session, name: str, worker_id: str) -> None:
    """Let other workers begin the task at once: it has failed."""
    session.execute(delete(TaskLease).where(TaskLease.name == name, TaskLease.worker == worker_id))


@dataclass(frozen=True)
class QueueDepth:
    """Queued runs of one kind and resource class."""

    kind: str
    resource: str  # one of jobs.CLASSES
    depth: int
    oldest_seconds: float  # since the first of them could have been claimed


@dataclass(frozen=True)
class WorkerStats:
    """Workers with a heartbeat within ALIVE_WITHIN."""

    workers: int
    slots: int
    slots_used: int  # leased runs, and gang members that wait or work
    consumed_seconds: float | None  # since a worker last received a message; None: never


def queue_depths(session: Session) -> list[QueueDepth]:
    """One for each kind and resource class with queued runs."""
    moment = now(session)
    ready = func.min(func.coalesce(Run.ready_at, Run.queued_at), type_=Run.queued_at.type)
    query = (
        select(Run.kind, Run.resource, func.count(), ready)
        .where(Run.state == State.QUEUED.value)
        .group_by(Run.kind, Run.resource)
        .order_by(Run.kind, Run.resource)
    )
    rows = session.execute(query).tuples()
    return [QueueDepth(kind, resource, depth, _seconds(oldest, moment)) for kind, resource, depth, oldest in rows]


def worker_stats(session: Session) -> WorkerStats:
    """Number of workers that are alive, and their load."""
    moment = now(session)
    alive = select(func.count(), func.coalesce(func.sum(Worker.slots), 0), func.max(Worker.consumed_at)).where(
        Worker.seen_at >= moment - ALIVE_WITHIN
    )
    workers, slots, consumed = session.execute(alive).tuples().one()
    leased = select(func.count()).select_from(Run).where(Run.state.in_([state.value for state in LEASED]))
    members = select(func.count()).where(
        func.coalesce(GangMemberRow.number, 1) > 0,  # node 0 is counted with the leased run
        GangMemberRow.expires_at >= moment,
        GangMemberRow.ending.is_(None),
    )
    used = session.scalars(leased).one() + session.scalars(members).one()
    return WorkerStats(workers, slots, used, None if consumed is None else _seconds(consumed, moment))


def gpu_usage(session: Session) -> list[tuple[str, int, dict[str, Any]]]:
    """(worker, number of the GPU, its use as in ``record_heartbeat``) of the workers that are alive."""
    query = select(Worker.id, Worker.gpus).where(Worker.seen_at >= now(session) - ALIVE_WITHIN).order_by(Worker.id)
    rows = session.execute(query).tuples()
    return [(worker, number, use) for worker, uses in rows for number, use in enumerate(uses)]


def _seconds(start: datetime, end: datetime) -> float:
    return max(0.0, (end - start).total_seconds())
