"""Server-sent events of runs. One query a poll reads the positions of all followed runs; a stream reads its run again
when its position has changed, so that a stream without events costs nothing."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import anyio
from anyio import CapacityLimiter, to_thread
from sqlalchemy import bindparam, func, select
from sse_starlette.event import ServerSentEvent

from api.services.runs import metric_line, run_view
from lcl_core.common.errors import UserError
from lcl_core.db import runs
from lcl_core.db.models import Metric, Run
from lcl_core.db.session import Database
from lcl_core.db.states import FINISHED

POLL_SECONDS = 0.5
STREAM_SECONDS = 900.0  # after which a stream ends; its reader comes back, if its key still opens
MAX_LINES = 1000  # of a query
_LAST_LINE = select(func.max(Metric.id)).where(Metric.run_id == Run.id).scalar_subquery()
_POSITIONS = select(Run.id, Run.state, Run.attempt, func.coalesce(_LAST_LINE, 0)).where(
    Run.id.in_(bindparam("run_ids", expanding=True))
)
Position = tuple[str, int, int]  # state, attempt, id of the last metric line


class RunFeeds:
    """Polls the runs that have followers. Belongs to one event loop.

    Args:
        threads: in which the database is queried.
    """

    def __init__(self, database: Database, threads: CapacityLimiter) -> None:
        self._database = database
        self._threads = threads
        self._followers: Counter[str] = Counter()
        self._positions: dict[str, Position] = {}
        self._polled = anyio.Event()  # set, and replaced, after each poll
        self._polling: asyncio.Task[None] | None = None

    async def events(self, run_id: str, after: int) -> AsyncIterator[bytes]:
        """``metrics`` with the line's id, and ``state`` whenever the state or the attempt changed; some at a time.

        A client that reconnects with ``Last-Event-ID`` gets the present state and the lines after that id. The final
        state is always the last event of a run; a stream of ``STREAM_SECONDS`` ends before, and its client reconnects.
        """
        reported: tuple[str, int] | None = None
        end = anyio.current_time() + STREAM_SECONDS
        with self._following(run_id):
            while anyio.current_time() < end:
                try:
                    lines, state, run = await to_thread.run_sync(self._query, run_id, after, limiter=self._threads)
                except UserError:  # the run was deleted
                    return
                after = lines[-1][0] if lines else after
                events = [event for _, event in lines]
                complete = len(lines) < MAX_LINES
                if complete and reported != state:
                    reported = state
                    events.append(make_event(after, "state", run))
                if events:
                    yield b"".join(events)
                if complete and state[0] in FINISHED:
                    return
                if complete:
                    await self._changed(run_id, (*state, after), end)

    async def _changed(self, run_id: str, known: Position, end: float) -> None:
        """Wait until a poll finds the run elsewhere, or no longer, at the latest until ``end``."""
        with anyio.move_on_at(end):
            while True:
                await self._polled.wait()
                if self._positions.get(run_id) != known:
                    return

    @contextmanager
    def _following(self, run_id: str) -> Iterator[None]:
        self._followers[run_id] += 1
        self._polling = self._polling or asyncio.create_task(self._poll())
        try:
            yield
        finally:
            self._followers[run_id] -= 1
            if not self._followers[run_id]:
                del self._followers[run_id]
            if not self._followers and self._polling is not None:
                self._polling.cancel()
                self._polling = None

    async def _poll(self) -> None:
        while True:
            await anyio.sleep(POLL_SECONDS)
            try:
                self._positions = await to_thread.run_sync(
                    self._query_positions, list(self._followers), limiter=self._threads
                )
            except Exception:
                self._positions = {}  # each stream reads for itself, and ends with the error
            polled, self._polled = self._polled, anyio.Event()
            polled.set()

    def _query(self, run_id: str, after: int) -> tuple[list[tuple[int, bytes]], tuple[str, int], dict[str, Any]]:
        """New lines of the run, its state and attempt, and the run without spec and progress.

        The run is read first, so that a finished run's last lines cannot be missed.
        """
        with self._database.reading() as session:
            run = run_view(session, runs.get_run(session, run_id))
            rows = [metric_line(row) for row in runs.metrics_after(session, run_id, after, MAX_LINES)]
        lines = [(line["id"], make_event(line["id"], "metrics", line)) for line in rows]
        return lines, (run.state, run.attempt), run.model_dump(mode="json", exclude={"spec", "progress"})

    def _query_positions(self, run_ids: Sequence[str]) -> dict[str, Position]:
        with self._database.reading() as session:
            rows = session.execute(_POSITIONS, {"run_ids": run_ids}).tuples().all()
        return {run_id: (state, attempt, last) for run_id, state, attempt, last in rows}


def make_event(number: int, name: str, data: dict[str, Any]) -> bytes:
    text = json.dumps(data, separators=(",", ":"))
    return ServerSentEvent(text, id=str(number), event=name).encode()
