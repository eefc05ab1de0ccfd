"""Feeds of followed runs: one database query per poll and run, shared by all followers of that run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
from anyio import CapacityLimiter, to_thread
from sqlalchemy import func, select

from api.services.runs import metric_line, run_view
from lcl_core.db import runs
from lcl_core.db.models import Metric
from lcl_core.db.session import Database

MAX_LINES = 1000
Event = dict[str, Any]


@dataclass(frozen=True)
class RunSnapshot:
    """A run as it was between two moments, ``asked`` and ``read``, by the clock of the event loop.

    Attributes:
        after: the number of the metric line behind which lines were read.
        lines: (number, event) of each of them, in order.
        whole: there are no more of them.
        state: the run's state and attempt.
        told: what is told of them, as JSON.
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
    """Of a followed run. ``changed`` is set, and replaced, whenever there is a newer snapshot or an error."""

    followers: int = 0
    newest: RunSnapshot | None = None
    error: Exception | None = None
    changed: anyio.Event = field(default_factory=anyio.Event)
    poll: asyncio.Task[None] | None = None


class RunFeeds:
    """Follows runs while somebody reads of them. Used by the event loop alone.

    Args:
        poll_seconds: between two looks at a followed run.
        lane: threads that ask the database.
    """

    def __init__(self, database: Database, poll_seconds: float, lane: CapacityLimiter) -> None:
        self._database = database
        self._poll_seconds = poll_seconds
        self._lane = lane
        self._feeds: dict[str, _Feed] = {}

    async def snapshots(self, run_id: str, after: int, end: float) -> AsyncGenerator[RunSnapshot, None]:
        """The run now and after each poll, until ``end``, with the lines behind number ``after``, each once.

        Raises: UserError when there is no such run any more; what the database raises.
        """
        async with self._subscribe(run_id) as feed:
            seen: RunSnapshot | None = None
            while anyio.current_time() < end:
                if seen is None or seen.after > after:  # the others were told of lines that this one missed
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
        """Look again and again. An error ends it, and the reading of all who follow."""
        try:
            after = await to_thread.run_sync(self._last_line, run_id, limiter=self._lane)
            while feed.error is None:
                await anyio.sleep(self._poll_seconds)
                feed.newest = await self._query_snapshot(run_id, after)
                after = feed.newest.last
                _notify(feed)
        except Exception as error:
            feed.error = error
            self._remove(run_id, feed)  # whoever comes next tries anew
            _notify(feed)

    def _remove(self, run_id: str, feed: _Feed) -> None:
        if self._feeds.get(run_id) is feed:
            del self._feeds[run_id]

    async def _query_snapshot(self, run_id: str, after: int) -> RunSnapshot:
        asked = anyio.current_time()
        lines, state, told = await to_thread.run_sync(self._query, run_id, after, limiter=self._lane)
        return RunSnapshot(asked, anyio.current_time(), after, lines, len(lines) < MAX_LINES, state, told)

    def _query(self, run_id: str, after: int) -> tuple[list[tuple[int, Event]], tuple[str, int], str]:
        """The run, then its new lines: in this order a finished run's last lines cannot be missed."""
        with self._database.reading() as session:
            run = run_view(session, runs.get_run(session, run_id))
            lines = [metric_line(row) for row in runs.metrics_after(session, run_id, after, MAX_LINES)]
        events = [(line["id"], make_event(line["id"], "metrics", _compact_json(line))) for line in lines]
        told = _compact_json(run.model_dump(mode="json", exclude={"spec", "progress"}))
        return events, (run.state, run.attempt), told

    def _last_line(self, run_id: str) -> int:
        with self._database.reading() as session:
            return session.scalar(select(func.max(Metric.id)).where(Metric.run_id == run_id)) or 0


async def _next_snapshot(feed: _Feed, seen: RunSnapshot, end: float) -> RunSnapshot | None:
    """The first snapshot that was asked for after ``seen`` was read, and so cannot be older; None at the end."""
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
