"""The index by which the maintainer finds runs that nobody claimed comes and goes, and is used."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import inspect

from lcl_core.db import queue as db_queue
from lcl_core.db.session import Database, now
from tests.lcl_core.db.migrations.plans import check_read_in_order


def indices(database: Database) -> set[str | None]:
    return {index["name"] for index in inspect(database.engine).get_indexes("run")}


def test_it_comes_and_goes(database: Database, queue: Callable[..., str]) -> None:
    run_id = queue()
    database.downgrade("0022")
    assert "ix_run_ready" not in indices(database)
    database.migrate()
    assert "ix_run_ready" in indices(database)
    with database.reading() as session:
        moment = now(session)
        hour = timedelta(hours=1)
        assert db_queue.unclaimed_since(session, moment - hour, moment + hour) == run_id
        assert db_queue.unclaimed_since(session, None, moment + hour) == run_id
        assert db_queue.unclaimed_since(session, moment + hour, moment + 2 * hour) is None


def test_runs_of_a_time_are_read_from_it(database: Database) -> None:
    times = "ready_at >= '2026-01-01 00:00:00' AND ready_at < '2026-01-01 00:00:02'"
    check_read_in_order(database, f"SELECT id FROM run WHERE {times} ORDER BY ready_at LIMIT 1", "ix_run_ready")
