"""Does a submitted run get done? Asked of the database, the disk, the broker and the workers' own marks."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from api.context import Context
from api.disk_check import folders_of, problem_of
from api.models import Check
from lcl_core.runs import store
from lcl_core.runs.database import now
from lcl_core.runs.states import LEASED
from lcl_core.runs.tables import Run

CONSUMED_WITHIN = timedelta(seconds=60)


def look(context: Context) -> dict[str, Check]:
    """Every check by name. Sends a ping through the broker, whose consumption the next look sees."""
    try:
        worker = _worker(context)
        database = Check(ok=True, detail="answers")
    except SQLAlchemyError as error:
        database = Check(ok=False, detail=f"does not answer ({type(error).__name__})")
        worker = Check(ok=False, detail="cannot be known without the database")
    rang = context.doorbell.ping("api")
    broker = Check(ok=rang, detail="takes messages" if rang else "does not answer")
    return {"database": database, "disk": _disk(context), "broker": broker, "worker": worker}


def _disk(context: Context) -> Check:
    """A small file was written where the service writes; a database that answers may be on a disk that is full."""
    problems = [problem for folder in folders_of(context.settings) if (problem := problem_of(folder)) is not None]
    return Check(ok=not problems, detail="; ".join(problems) or "takes files")


def _worker(context: Context) -> Check:
    """A worker took a message within the last minute, or holds a live lease."""
    with context.database.reading() as session:
        moment = now(session)
        live = select(Run.id).where(Run.state.in_([state.value for state in LEASED]), Run.lease_expires_at > moment)
        if session.scalars(live.limit(1)).first() is not None:
            return Check(ok=True, detail="at work on a run")
        workers = store.list_workers(session)
        if any(row.consumed_at and moment - row.consumed_at < CONSUMED_WITHIN for row in workers):
            return Check(ok=True, detail="consumes messages")
        if workers:
            return Check(ok=False, detail="took no message within the last minute; ask again in a few seconds")
        return Check(ok=False, detail="none has registered; start one")
