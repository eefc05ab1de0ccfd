"""Followers of one run share the looks at the database, and each gets every line once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import CapacityLimiter

import api.services.run_events
from api.services.run_events import RunFeeds, RunSnapshot
from lcl_core.common.errors import UserError
from lcl_core.db import submit
from lcl_core.db.models import Metric
from lcl_core.db.session import Database
from lcl_core.specs.parsing import parse_spec

FOLLOWERS = 20
NEVER = float("inf")


class Watched(RunFeeds):
    """Counts its questions; each reads ``error`` first."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, 0.01, CapacityLimiter(4))
        self.requested = 0
        self.error: Exception | None = None

    def _query(self, run_id: str, after: int) -> Any:
        self.requested += 1
        if self.error is not None:
            raise self.error
        return super()._query(run_id, after)


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
    feeds = Watched(database)
    ready = 0

    async def follow() -> None:
        nonlocal ready
        async with aclosing(feeds.snapshots(run_id, 0, NEVER)) as snapshots:
            seen = 0
            async for _ in snapshots:
                seen += 1
                if seen == 11:
                    ready += 1
                    return

    async def main() -> None:
        with anyio.fail_after(180):
            async with anyio.create_task_group() as group:
                for _ in range(FOLLOWERS):
                    group.start_soon(follow)

    anyio.run(main)
    assert ready == FOLLOWERS
    assert feeds.requested < FOLLOWERS + 5 * 11, "one look of each at first, then the same for all"
    assert feeds._feeds == {}, "nobody follows any more"


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
