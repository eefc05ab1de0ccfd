"""Runs from before there were pauses go on, and going back leaves no state that the older version does not know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import inspect, text

from lcl_core.db import leases, runs
from lcl_core.db.session import Database

NEW = {"ready_at", "interruption"}
TABLES = {"tally", "predecessor", "webhook", "delivery"}


def columns(database: Database) -> set[str]:
    return {column["name"] for column in inspect(database.engine).get_columns("run")}


def test_back_and_forth(
    database: Database,
    queue: Callable[..., str],
    claim: Callable[..., leases.Claim],
    run_of: Callable[[str], Any],
) -> None:
    running = queue()
    claim()
    first, paused = queue(), queue()
    waiting = queue(after=[first])
    with database.session() as session:
        runs.pause_run(session, running)
        runs.pause_run(session, paused)
    database.downgrade("0003")
    assert not NEW & columns(database)
    assert not TABLES & set(inspect(database.engine).get_table_names())
    with database.engine.connect() as connection:
        states = dict(connection.execute(text("SELECT id, state FROM run")).tuples().all())
    assert states == {running: "cancelling", first: "queued", paused: "cancelled", waiting: "cancelled"}
    database.migrate()
    assert columns(database) >= NEW
    assert run_of(first).ready_at is None
    assert claim().run_id == first, "a run of before has waited since it was queued"
