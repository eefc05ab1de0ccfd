"""Followers share the looks at the database, and each gets every line of its run once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import CapacityLimiter
from sqlalchemy import event

import api.services.run_events
from api.services.run_events import RunFeeds, RunSnapshot
from lcl_core.common.errors import UserError
from lcl_core.db import runs, submit
from lcl_core.db.models import Metric
from lcl_core.db.session import Database
from lcl_core.specs.parsing import parse_spec

FOLLOWERS = 20
NEVER = float("inf")


class Watched(RunFeeds):
    """Counts its questions about one run, and polls of all; each reads ``error`` first."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, 0.01, CapacityLimiter(4))
        self.requested = self.polls = 0
        self.error: Exception | None = None

    def _query(self, run_id: str, after: int) -> Any:
        self.requested += 1
        self.fail()
        return super()._query(run_id, after)

    def _query_news(self, known: Mapping[str, RunSnapshot | None]) -> Any:
        self.polls += 1
        self.fail()
        return super()._query_news(known)

    def fail(self) -> None:
        if self.error is not None:
            raise self.error


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'a.db'}")
    database.migrate()
    yield database
    database.dispose()


@pytest.fixture
def run_id(database: Database) -> str:
    with database.session() as session:
        return submit.submit(session, "pretrain", parse_spec("pretrain", {"preset": "sample"})).id


def record(database: Database, run_id: str, *steps: int) -> None:
    with database.session() as session:
        session.add_all(Metric(run_id=run_id, phase="", step=step, values={"step": step}) for step in steps)


async def taken(feeds: RunFeeds, run_id: str, until: int, after: int = 0) -> list[int]:
    """Numbers of the lines, up to the line ``until``."""
    numbers: list[int] = []
    async with aclosing(feeds.snapshots(run_id, after, NEVER)) as snapshots:
        async for snapshot in snapshots:
            numbers += [number for number, _ in snapshot.lines]
            if numbers and numbers[-1] >= until:
                return numbers
    raise AssertionError("it ended")


def test_many_followers_cost_as_many_looks_as_one(database: Database, run_id: str) -> None:
    feeds, lines = Watched(database), 10
    taken_by_all = [anyio.Event() for _ in range(lines + 1)]
    counts = [0] * (lines + 1)

    async def follow() -> None:
        async with aclosing(feeds.snapshots(run_id, 0, NEVER)) as snapshots:
            async for snapshot in snapshots:
                for number in {number for number, _ in snapshot.lines} or {0}:
                    counts[number] += 1
                    if counts[number] == FOLLOWERS:
                        taken_by_all[number].set()
                if counts[lines] and snapshot.last == lines:
                    return

    async def main() -> None:
        with anyio.fail_after(180):
            async with anyio.create_task_group() as group:
                for _ in range(FOLLOWERS):
                    group.start_soon(follow)
                await taken_by_all[0].wait()
                for number in range(1, lines + 1):
                    await anyio.to_thread.run_sync(record, database, run_id, number)
                    await taken_by_all[number].wait()

    anyio.run(main)
    assert counts[1:] == [FOLLOWERS] * lines
    assert feeds.requested < FOLLOWERS + 5 * 11, "one look of each at first, then the same for all"
    assert feeds._feeds == {}, "nobody follows any more"


def test_a_poll_is_one_query_for_all_runs_and_followers(database: Database) -> None:
    with database.session() as session:
        spec = parse_spec("pretrain", {"preset": "sample"})
        run_ids = [submit.submit(session, "pretrain", spec).id for _ in range(3)]
    feeds, begun, statements = Watched(database), 0, list[str]()

    async def follow(run_id: str) -> None:
        nonlocal begun
        async with aclosing(feeds.snapshots(run_id, 0, NEVER)) as snapshots:
            async for _ in snapshots:
                begun += 1

    async def polls(count: int) -> None:
        last = feeds.polls + count
        while feeds.polls < last:
            await anyio.sleep(0.005)

    async def main() -> None:
        with anyio.fail_after(180):
            async with anyio.create_task_group() as group:
                for number in range(FOLLOWERS):
                    group.start_soon(follow, run_ids[number % 3])
                while begun < FOLLOWERS:
                    await anyio.sleep(0.005)
                await polls(3)  # until all runs are known
                event.listen(database.engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
                before, woken = feeds.polls, begun
                await polls(5)
                queries = [statement for statement in statements if not statement.startswith("BEGIN")]
                assert abs(len(queries) - (feeds.polls - before)) <= 1, "one poll may be at work"
                assert begun == woken, "nothing has happened"
                group.cancel_scope.cancel()

    anyio.run(main)
    assert feeds._feeds == {}


def test_a_slow_follower_holds_up_nobody_and_misses_nothing(
    database: Database, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.services.run_events, "SHARED_LINES", 2)
    feeds, slow = Watched(database), list[int]()
    begun, released = anyio.Event(), anyio.Event()

    async def follow_slowly() -> None:
        async with aclosing(feeds.snapshots(run_id, 0, NEVER)) as snapshots:
            async for snapshot in snapshots:
                slow.extend(number for number, _ in snapshot.lines)
                if slow and slow[-1] == 9:
                    return
                begun.set()
                await released.wait()

    async def main() -> None:
        with anyio.fail_after(180):
            async with anyio.create_task_group() as group:
                group.start_soon(follow_slowly)
                await begun.wait()
                for number in range(1, 10):
                    await anyio.to_thread.run_sync(record, database, run_id, number)
                    assert await taken(feeds, run_id, number, number - 1) == [number]
                assert slow == []
                released.set()

    anyio.run(main)
    assert slow == list(range(1, 10))


def test_a_stream_ends_with_the_final_state_after_the_last_line(database: Database, run_id: str) -> None:
    feeds, received = Watched(database), [b""] * 3

    async def follow(number: int) -> None:
        async for events in feeds.events(run_id, 0, NEVER):
            received[number] += events

    def finish() -> None:
        record(database, run_id, 1)
        with database.session() as session:
            runs.cancel_run(session, run_id)

    async def main() -> None:
        with anyio.fail_after(180):
            async with anyio.create_task_group() as group:
                for number in range(3):
                    group.start_soon(follow, number)
                while not all(received):
                    await anyio.sleep(0.005)
                await anyio.to_thread.run_sync(finish)

    anyio.run(main)
    told = [re.findall(rb'event: metrics|"state":"\w+"', events) for events in received]
    assert told == [[b'"state":"queued"', b"event: metrics", b'"state":"cancelled"']] * 3
    assert feeds._feeds == {}


def test_each_line_comes_once_wherever_one_begins(
    database: Database, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.services.run_events, "MAX_LINES", 2)
    record(database, run_id, 1, 2, 3, 4, 5)
    feeds, found = Watched(database), dict[str, list[int]]()

    async def follow(name: str, after: int) -> None:
        found[name] = await taken(feeds, run_id, 9, after)

    async def main() -> None:
        with anyio.fail_after(180):
            async with anyio.create_task_group() as group:
                group.start_soon(follow, "from the beginning", 0)
                group.start_soon(follow, "from the end", 5)
                await anyio.sleep(0.05)
                await anyio.to_thread.run_sync(record, database, run_id, 6, 7, 8)
                group.start_soon(follow, "late", 3)
                await anyio.to_thread.run_sync(record, database, run_id, 9)

    anyio.run(main)
    assert found == {
        "from the beginning": [*range(1, 10)], "from the end": [6, 7, 8, 9], "late": [4, 5, 6, 7, 8, 9]
    }  # fmt: skip


def test_a_number_that_never_was_hides_nothing_from_others(database: Database, run_id: str) -> None:
    feeds = Watched(database)

    async def main() -> list[int]:
        with anyio.fail_after(180):
            async with aclosing(feeds.snapshots(run_id, 10**15, NEVER)) as beyond:
                assert (await anext(beyond)).lines == []
                record(database, run_id, 1)
                return await taken(feeds, run_id, 1)

    assert anyio.run(main) == [1]


def test_what_the_database_says_reaches_all_who_follow(database: Database, run_id: str) -> None:
    feeds, reported = Watched(database), list[str]()

    async def follow() -> None:
        try:
            async with aclosing(feeds.snapshots(run_id, 0, NEVER)) as snapshots:
                async for _ in snapshots:
                    pass
        except UserError as error:
            reported.append(error.code)

    async def main() -> None:
        with anyio.fail_after(180):
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(follow)
                await anyio.sleep(0.05)
                feeds.error = UserError("gone", code="unknown_run")
            feeds.error = None
            async with aclosing(feeds.snapshots(run_id, 0, NEVER)) as anew:
                assert isinstance(await anext(anew), RunSnapshot)

    anyio.run(main)
    assert reported == ["unknown_run"] * 3


def test_it_ends_at_its_time(database: Database, run_id: str) -> None:
    feeds = Watched(database)

    async def main() -> None:
        with anyio.fail_after(180):
            async with aclosing(feeds.snapshots(run_id, 0, anyio.current_time() + 0.05)) as snapshots:
                async for snapshot in snapshots:
                    assert snapshot.state[0] == "queued"

    anyio.run(main)
    assert feeds._feeds == {}
