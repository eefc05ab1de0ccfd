"""Server-sent events of runs: one database query per poll and followed run, shared by all its followers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
from anyio import CapacityLimiter, to_thread
from sqlalchemy import func, select

from api.services.runs import metric_line, run_view
from lcl_core.common.errors import UserError
from lcl_core.db import runs
from lcl_core.db.models import Metric
from lcl_core.db.session import Database
from lcl_core.db.states import FINISHED

MAX_LINES = 1000
Event = dict[str, Any]


@dataclass(frozen=True)
class RunSnapshot:
    """State and new metric lines of a run, read between ``queried_at`` and ``received_at`` (event loop's clock).

    Attributes:
        after: id of the metric line after which lines were read.
        lines: (id, event) of each line, in order.
        complete: there are no further lines.
        state: state and attempt of the run.
        state_json: the run without spec and progress.
    """

    queried_at: float
    received_at: float
    after: int
    lines: list[tuple[int, Event]]
    complete: bool
    state: tuple[str, int]
    state_json: str

    @property
    def last(self) -> int:
        return self.lines[-1][0] if self.lines else self.after


@dataclass
class _Feed:
    """A followed run. ``changed`` is set, and replaced, at each new snapshot or error."""

    followers: int = 0
    newest: RunSnapshot | None = None
    error: Exception | None = None
    changed: anyio.Event = field(default_factory=anyio.Event)
    poll: asyncio.Task[None] | None = None


class RunFeeds:
    """Polls runs that have followers. Belongs to one event loop.

    Args:
        poll_seconds: between two queries of a run.
        threads: in which the database is queried.
    """

    def __init__(self, database: Database, poll_seconds: float, threads: CapacityLimiter) -> None:
        self._database = database
        self._poll_seconds = poll_seconds
        self._threads = threads
        self._feeds: dict[str, _Feed] = {}

    async def events(self, run_id: str, after: int, seconds: float) -> AsyncIterator[Event]:
        """``metrics`` with the line's id, and ``state`` whenever the state or the attempt changed.

        A client that reconnects with ``Last-Event-ID`` gets the present state and the lines after that id. The final
        state is always the last event of a run; a stream older than ``seconds`` ends before, and its client reconnects.
        """
        reported: tuple[str, int] | None = None
        async with aclosing(self.snapshots(run_id, after, anyio.current_time() + seconds)) as snapshots:
            try:
                async for snapshot in snapshots:
                    for _number, event in snapshot.lines:
                        yield event
                    if not snapshot.complete:
                        continue
                    if reported != snapshot.state:
                        reported = snapshot.state
                        yield make_event(snapshot.last, "state", snapshot.state_json)
                    if reported[0] in FINISHED:
                        return
            except UserError:  # the run was deleted
                return

    async def snapshots(self, run_id: str, after: int, end: float) -> AsyncGenerator[RunSnapshot, None]:
        """The run now and after each poll, until ``end``; each line after id ``after`` once.

        Raises: UserError when the run no longer exists; errors of the database.
        """
        async with self._subscribe(run_id) as feed:
            seen: RunSnapshot | None = None
            while anyio.current_time() < end:
                if seen is None or seen.after > after:  # the shared snapshot begins after lines that this one missed
                    seen = await self._query_snapshot(run_id, after)
                new = replace(seen, after=after, lines=[line for line in seen.lines if line[0] > after])
                yield new
                after = new.last
                seen = await _next_snapshot(feed, seen, end) if seen.complete else None

    @asynccontextmanager
    async def _subscribe(self, run_id: str) -> AsyncIterator[_Feed]:
        feed = self._feeds.setdefault(run_id, _Feed())
        feed.followers += 1
        feed.poll = feed.poll or asyncio.create_task(self._poll(run_id, feed))
        try:
            yield feed
        finally:
            feed.followers -= 1
            if not feed.followers:
                feed.poll.cancel()
                self._remove(run_id, feed)

    async def _poll(self, run_id: str, feed: _Feed) -> None:
        """Query until the last follower leaves. An error ends the poll and all followers' streams."""
        try:
            after = await to_thread.run_sync(self._last_line, run_id, limiter=self._threads)
            while feed.error is None:
                await anyio.sleep(self._poll_seconds)
                feed.newest = await self._query_snapshot(run_id, after)
                after = feed.newest.last
                _notify(feed)
        except Exception as error:
            feed.error = error
            self._remove(run_id, feed)  # the next follower starts a new feed
            _notify(feed)

    def _remove(self, run_id: str, feed: _Feed) -> None:
        if self._feeds.get(run_id) is feed:
            del self._feeds[run_id]

    async def _query_snapshot(self, run_id: str, after: int) -> RunSnapshot:
        queried_at = anyio.current_time()
        lines, state, state_json = await to_thread.run_sync(self._query, run_id, after, limiter=self._threads)
        return RunSnapshot(queried_at, anyio.current_time(), after, lines, len(lines) < MAX_LINES, state, state_json)

    def _query(self, run_id: str, after: int) -> tuple[list[tuple[int, Event]], tuple[str, int], str]:
        """The run, then its new lines: in this order a finished run's last lines cannot be missed."""
        with self._database.reading() as session:
            run = run_view(session, runs.get_run(session, run_id))
            lines = [metric_line(row) for row in runs.metrics_after(session, run_id, after, MAX_LINES)]
        events = [(line["id"], make_event(line["id"], "metrics", _compact_json(line))) for line in lines]
        state_json = _compact_json(run.model_dump(mode="json", exclude={"spec", "progress"}))
        return events, (run.state, run.attempt), state_json

    def _last_line(self, run_id: str) -> int:
        with self._database.reading() as session:
            return session.scalar(select(func.max(Metric.id)).where(Metric.run_id == run_id)) or 0


async def _next_snapshot(feed: _Feed, seen: RunSnapshot, end: float) -> RunSnapshot | None:
    """The first snapshot queried after ``seen`` was received, so that it cannot be older; None at ``end``."""
    with anyio.CancelScope(deadline=end):
        while feed.newest is None or feed.newest.queried_at < seen.received_at:
            if feed.error is not None:
                raise feed.error
            await feed.changed.wait()
        return feed.newest
    return None


def _notify(feed: _Feed) -> None:
    changed, feed.changed = feed.changed, anyio.Event()
    changed.set()


def make_event(number: int, name: str, data: str) -> Event:
    return {"id": str(number), "event": name, "data": data}


def _compact_json(data: dict[str, Any]) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))
