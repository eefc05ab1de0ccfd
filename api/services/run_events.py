"""Server-sent events of runs: one database query per poll for all followed runs, whose answers all followers share.

A poll reads state and newest line of every followed run. Only what has changed is read, serialised once, and wakes the
followers of its run: a stream without events costs nothing.
"""

from __future__ import annotations

import asyncio
import json
from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any, NamedTuple

import anyio
from anyio import CapacityLimiter, to_thread
from sqlalchemy import bindparam, func, select
from sqlalchemy.orm import Session
from sse_starlette.event import ServerSentEvent

from api.services.runs import metric_line, run_view
from lcl_core.common.errors import UserError
from lcl_core.db import runs
from lcl_core.db.models import Metric, Run
from lcl_core.db.session import Database
from lcl_core.db.states import FINISHED

MAX_LINES = 1000  # of a query
SHARED_LINES = 100  # newest ones that a feed keeps for followers that lag
_LAST_LINE = select(func.max(Metric.id)).where(Metric.run_id == Run.id).scalar_subquery()
_POSITIONS = select(Run.id, Run.state, Run.attempt, func.coalesce(_LAST_LINE, 0)).where(
    Run.id.in_(bindparam("run_ids", expanding=True))
)
Line = tuple[int, bytes]  # id of a metric line, and its event


class Position(NamedTuple):
    """What changes when a run has something to tell."""

    state: str
    attempt: int
    last: int  # id of its last metric line


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
    lines: Sequence[Line]
    complete: bool
    state: tuple[str, int]
    state_json: str

    @property
    def last(self) -> int:
        return self.lines[-1][0] if self.lines else self.after

    def lines_after(self, number: int) -> Sequence[Line]:
        return self.lines[bisect_right(self.lines, number, key=itemgetter(0)) :]

    def continues(self, seen: RunSnapshot, after: int) -> bool:
        """Whether a follower may go on with this one: it brings back no older state, and omits no line."""
        is_newer = self.state == seen.state or self.queried_at >= seen.received_at
        return seen.complete and is_newer and self.after <= after

    def following(self, before: RunSnapshot | None) -> RunSnapshot:
        """This snapshot with the last lines of the one ``before``, after which it was read."""
        if before is None:
            return self
        kept = [*before.lines, *self.lines][-max(SHARED_LINES, len(self.lines)) :]
        dropped = len(before.lines) + len(self.lines) - len(kept)
        after = before.lines[dropped - 1][0] if dropped else before.after
        return replace(self, after=after, lines=kept)


@dataclass
class _Feed:
    """A followed run. ``changed`` is set, and replaced, and ``version`` grows, at each new snapshot or error."""

    followers: int = 0
    version: int = 0
    newest: RunSnapshot | None = None
    error: Exception | None = None
    changed: anyio.Event = field(default_factory=anyio.Event)

    def publish(self, news: RunSnapshot | Exception) -> None:
        """Tell all followers."""
        if isinstance(news, Exception):
            self.error = news
        else:
            self.newest = news
        self.version += 1
        changed, self.changed = self.changed, anyio.Event()
        changed.set()


class RunFeeds:
    """Polls the runs that have followers. Belongs to one event loop.

    Args:
        poll_seconds: between two polls.
        threads: in which the database is queried for followers that begin or lag.
    """

    def __init__(self, database: Database, poll_seconds: float, threads: CapacityLimiter) -> None:
        self._database = database
        self._poll_seconds = poll_seconds
        self._threads = threads
        self._poll_threads = CapacityLimiter(2)  # followers that begin do not delay the others' events
        self._feeds: dict[str, _Feed] = {}
        self._polling: asyncio.Task[None] | None = None

    async def events(self, run_id: str, after: int, seconds: float) -> AsyncIterator[bytes]:
        """``metrics`` with the line's id, and ``state`` whenever the state or the attempt changed; some at a time.

        A client that reconnects with ``Last-Event-ID`` gets the present state and the lines after that id. The final
        state is always the last event of a run; a stream older than ``seconds`` ends before, and its client reconnects.
        """
        reported: tuple[str, int] | None = None
        async with aclosing(self.snapshots(run_id, after, anyio.current_time() + seconds)) as snapshots:
            try:
                async for snapshot in snapshots:
                    events = [event for _number, event in snapshot.lines]
                    if snapshot.complete and reported != snapshot.state:
                        reported = snapshot.state
                        events.append(make_event(snapshot.last, "state", snapshot.state_json))
                    if events:
                        yield b"".join(events)
                    if snapshot.complete and snapshot.state[0] in FINISHED:
                        return
            except UserError:  # the run was deleted
                return

    async def snapshots(self, run_id: str, after: int, end: float) -> AsyncGenerator[RunSnapshot]:
        """The run now and after each change, until ``end``; each line after id ``after`` once.

        Raises: UserError when the run no longer exists; errors of the database.
        """
        async with self._subscribe(run_id) as feed:
            seen: RunSnapshot | None = None
            while anyio.current_time() < end:
                # read before the snapshot: what is published meanwhile is looked at after it
                version, shared = feed.version, feed.newest
                if seen is None or shared is None or not shared.continues(seen, after):
                    seen = await self._query_snapshot(run_id, after, self._threads)
                    news = True
                else:
                    news = shared.state != seen.state or shared.last > after
                    seen = shared
                if news:
                    new = replace(seen, after=after, lines=seen.lines_after(after))
                    yield new
                    after = new.last
                if seen.complete:
                    await _changed_since(feed, version, end)

    @asynccontextmanager
    async def _subscribe(self, run_id: str) -> AsyncIterator[_Feed]:
        feed = self._feeds.setdefault(run_id, _Feed())
        feed.followers += 1
        self._polling = self._polling or asyncio.create_task(self._poll())
        try:
            yield feed
        finally:
            feed.followers -= 1
            if not feed.followers:
                self._remove(run_id, feed)

    def _remove(self, run_id: str, feed: _Feed) -> None:
        """The next follower of the run starts a new feed. The poll ends with the last feed."""
        if self._feeds.get(run_id) is feed:
            del self._feeds[run_id]
        if not self._feeds and self._polling is not None:
            self._polling.cancel()
            self._polling = None

    async def _poll(self) -> None:
        """Poll until the last follower leaves. An error of the database ends all streams."""
        while True:
            await anyio.sleep(self._poll_seconds)
            feeds = dict(self._feeds)
            known = {run_id: feed.newest for run_id, feed in feeds.items()}
            queried_at = anyio.current_time()
            try:
                news = await to_thread.run_sync(self._query_news, known, limiter=self._poll_threads)
            except Exception as error:
                self._fail(feeds, error)
                continue
            received_at = anyio.current_time()
            async with anyio.create_task_group() as group:
                for run_id, feed in feeds.items():
                    position, lines = news.get(run_id, (None, []))
                    before = feed.newest
                    if before is None or position is None or before.state != position[:2]:
                        group.start_soon(self._update, run_id, feed, position)
                    elif lines:
                        complete, state = len(lines) < MAX_LINES, (before.state, before.state_json)
                        new = RunSnapshot(queried_at, received_at, before.last, lines, complete, *state)
                        feed.publish(new.following(before))

    async def _update(self, run_id: str, feed: _Feed, position: Position | None) -> None:
        """Publish a run whose state has changed. ``position``: None for a run that no longer exists."""
        after = position.last if position is not None else 0
        if feed.newest is not None:
            after = feed.newest.last
        try:
            new = await self._query_snapshot(run_id, after, self._poll_threads)
        except Exception as error:
            self._fail({run_id: feed}, error)
        else:
            feed.publish(new.following(feed.newest))

    def _fail(self, feeds: Mapping[str, _Feed], error: Exception) -> None:
        for run_id, feed in feeds.items():
            feed.publish(error)
            self._remove(run_id, feed)

    async def _query_snapshot(self, run_id: str, after: int, threads: CapacityLimiter) -> RunSnapshot:
        queried_at = anyio.current_time()
        lines, state, state_json = await to_thread.run_sync(self._query, run_id, after, limiter=threads)
        return RunSnapshot(queried_at, anyio.current_time(), after, lines, len(lines) < MAX_LINES, state, state_json)

    def _query(self, run_id: str, after: int) -> tuple[list[Line], tuple[str, int], str]:
        """The run, then its new lines: in this order a finished run's last lines cannot be missed."""
        with self._database.reading() as session:
            run = run_view(session, runs.get_run(session, run_id))
            lines = _read_lines(session, run_id, after)
        state_json = _compact_json(run.model_dump(mode="json", exclude={"spec", "progress"}))
        return lines, (run.state, run.attempt), state_json

    def _query_news(self, known: Mapping[str, RunSnapshot | None]) -> dict[str, tuple[Position, list[Line]]]:
        """Positions of the runs that exist, with the new lines of those whose state is the known one."""
        with self._database.reading() as session:
            rows = session.execute(_POSITIONS, {"run_ids": list(known)}).tuples().all()
            news: dict[str, tuple[Position, list[Line]]] = {}
            for run_id, *columns in rows:
                position, before = Position(*columns), known[run_id]
                has_lines = before is not None and before.state == position[:2] and before.last < position.last
                news[run_id] = position, _read_lines(session, run_id, before.last) if has_lines and before else []
            return news


async def _changed_since(feed: _Feed, version: int, end: float) -> None:
    """Wait until something has been published since ``version``, or ``end``. Raises: the error of the feed."""
    with anyio.CancelScope(deadline=end):
        while feed.version == version:
            await feed.changed.wait()
    if feed.error is not None:
        raise feed.error


def _read_lines(session: Session, run_id: str, after: int) -> list[Line]:
    lines = [metric_line(row) for row in runs.metrics_after(session, run_id, after, MAX_LINES)]
    return [(line["id"], make_event(line["id"], "metrics", _compact_json(line))) for line in lines]


def make_event(number: int, name: str, data: str) -> bytes:
    return ServerSentEvent(data, id=str(number), event=name).encode()


def _compact_json(data: dict[str, Any]) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))
