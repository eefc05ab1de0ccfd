"""Server-sent events of a run. A poll that finds the run where it was costs one query of its position."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
from anyio import CapacityLimiter, to_thread
from sqlalchemy import bindparam, func, select
from sse_starlette.event import ServerSentEvent

from api.services.runs import metric_line, run_view
from lcl_core.db import runs
from lcl_core.db.models import Metric, Run
from lcl_core.db.session import Database
from lcl_core.db.states import FINISHED

POLL_SECONDS = 0.5
STREAM_SECONDS = 900.0  # after which a stream ends; its reader comes back, if its key still opens
MAX_LINES = 1000  # of a query
_LAST_LINE = select(func.max(Metric.id)).where(Metric.run_id == Run.id).scalar_subquery()
_POSITION = select(Run.state, Run.attempt, func.coalesce(_LAST_LINE, 0)).where(Run.id == bindparam("run_id"))


async def stream_events(database: Database, threads: CapacityLimiter, run_id: str, after: int) -> AsyncIterator[bytes]:
    """``metrics`` with the line's id, and ``state`` whenever the state or the attempt changed; some at a time.

    A client that reconnects with ``Last-Event-ID`` gets the present state and the lines after that id. The final state
    is always the last event of a run; a stream of ``STREAM_SECONDS`` ends before, and its client reconnects.
    """

    def read(after: int, known: Any) -> tuple[Any, list[dict[str, Any]], dict[str, Any]]:
        """Position of the run, None for a deleted one; where it has changed, new lines and the run.

        The position is read first, so that a finished run's last lines cannot be missed.
        """
        with database.reading() as session:
            position = session.execute(_POSITION, {"run_id": run_id}).tuples().one_or_none()
            if position is None or position == known:
                return position, [], {}
            lines = [metric_line(row) for row in runs.metrics_after(session, run_id, after, MAX_LINES)]
            run = run_view(session, runs.get_run(session, run_id))
            return position, lines, run.model_dump(mode="json", exclude={"spec", "progress"})

    known, reported, end = None, None, anyio.current_time() + STREAM_SECONDS
    while anyio.current_time() < end:
        position, lines, run = await to_thread.run_sync(read, after, known, limiter=threads)
        if position is None:
            return
        after = lines[-1]["id"] if lines else after
        events = [make_event(line["id"], "metrics", line) for line in lines]
        complete = len(lines) < MAX_LINES
        if complete and position[:2] != reported and run:
            reported = position[:2]
            events.append(make_event(after, "state", run))
        if events:
            yield b"".join(events)
        if complete and position[0] in FINISHED:
            return
        if complete:
            known = position
            await anyio.sleep(POLL_SECONDS)


def make_event(number: int, name: str, data: dict[str, Any]) -> bytes:
    text = json.dumps(data, separators=(",", ":"))
    return ServerSentEvent(text, id=str(number), event=name).encode()
