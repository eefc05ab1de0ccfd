"""Which workers are alive, and whether they consume messages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, update
from sqlalchemy.orm import Session

from lcl_core.runs.database import now
from lcl_core.runs.tables import Worker

FORGET_AFTER = timedelta(minutes=10)


@dataclass(frozen=True)
class Identity:
    """Facts of a worker process that do not change."""

    id: str
    host: str
    pid: int
    slots: int
    devices: tuple[str, ...]


def beat(session: Session, worker: Identity) -> None:
    """Say that the worker is alive; the first call makes its row. Workers long unseen are forgotten."""
    moment = now(session)
    row = session.get(Worker, worker.id)
    if row is None:
        facts = {"host": worker.host, "pid": worker.pid, "slots": worker.slots, "devices": list(worker.devices)}
        session.add(Worker(id=worker.id, started_at=moment, seen_at=moment, **facts))
    else:
        row.seen_at = moment
    session.execute(delete(Worker).where(Worker.seen_at < moment - FORGET_AFTER))


def consumed(session: Session, worker_id: str) -> None:
    """Note that the worker took a message off the broker just now."""
    session.execute(update(Worker).where(Worker.id == worker_id).values(consumed_at=now(session)))


def leave(session: Session, worker_id: str) -> None:
    """Forget a worker that ends in order."""
    session.execute(delete(Worker).where(Worker.id == worker_id))
