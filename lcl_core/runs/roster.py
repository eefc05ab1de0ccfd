"""Which workers are alive, and whether they consume messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

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
    offers: tuple[str, ...] = ("cpu",)


def beat(session: Session, worker: Identity, gpus: Sequence[dict[str, Any]] = ()) -> None:
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


def consumed(session: Session, worker_id: str) -> None:
    """Note that the worker took a message off the broker just now."""
    session.execute(update(Worker).where(Worker.id == worker_id).values(consumed_at=now(session)))


def leave(session: Session, worker_id: str) -> None:
    """Forget a worker that ends in order."""
    session.execute(delete(Worker).where(Worker.id == worker_id))
