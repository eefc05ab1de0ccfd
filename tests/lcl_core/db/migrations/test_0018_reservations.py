"""What runs of several nodes need, made while others write; and rows that older versions insert beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import inspect, text

from lcl_core.db import runs
from lcl_core.db.session import Database
from tests.lcl_core.db.queued_runs import add_runs

FIRST, LAST = 1, 18
WAITING = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ILIKE '%INDEX%'")


def test_it_comes_and_goes(database: Database) -> None:
    database.downgrade("0017")
    assert "task_lease" not in inspect(database.engine).get_table_names()
    assert "home" not in columns(database)["worker"]
    database.migrate()
    assert {"reserved_at"} <= set(columns(database)["run"])
    add_runs(database, [{"id": f"run_{number}", "owner": "ada", "after": number} for number in range(200)])
    assert "ix_run_gangs" in {index["name"] for index in inspect(database.engine).get_indexes("run")}


def waits_for_writer(database: Database) -> bool:
    with database.reading() as session:
        return bool(session.execute(WAITING).scalar_one())


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_runs_are_written_while_their_index_is_made(
    database: Database, queue: Callable[..., str], eventually: Callable[..., None]
) -> None:
    run_id = queue()
    database.downgrade("0017")
    rename = text("UPDATE run SET name = 'renamed' WHERE id = :id")
    with database.writer.connect() as longest, longest.begin():
        longest.execute(rename, {"id": run_id})  # the index waits for the end of this transaction
        migration = threading.Thread(target=database.migrate)
        migration.start()
        try:
            eventually(lambda: waits_for_writer(database), "the wait for the writer")
            with database.writer.connect() as other, other.begin():
                other.execute(text("SET LOCAL lock_timeout = '20s'"))
                other.execute(text("UPDATE run SET name = 'other' WHERE id = 'run_of_somebody_else'"))
        finally:
            longest.rollback()
            migration.join(180)
    assert "ix_run_gangs" in {index["name"] for index in inspect(database.engine).get_indexes("run")}


def test_the_tag_of_an_older_version_gets_the_owner_of_its_run(database: Database, queue: Callable[..., str]) -> None:
    run_id = queue(owner="ada", tags=["known"])
    with database.session() as session:
        session.execute(text("INSERT INTO run_tag (tag, run_id) VALUES ('older', :id)"), {"id": run_id})
    with database.reading() as session:
        [found] = runs.list_runs(session, tag="older").items
        assert found.id == run_id
        if database.engine.dialect.name == "postgresql":  # SQLite serves one version at a time
            assert [run.id for run in runs.list_runs(session, tag="older", owner="ada").items] == [run_id]


def columns(database: Database) -> dict[str, dict[str, Any]]:
    """{table: {column: its description}}"""
    inspector = inspect(database.engine)
    return {
        table: {column["name"]: column for column in inspector.get_columns(table)}
        for table in inspector.get_table_names()
    }


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_older_version_can_insert_beside_every_newer_one(database: Database) -> None:
    """Each column that was added to a table has a default or may be null.

    But for the home of garbage, part of the key: a version before it collects nothing until it is upgraded.
    """
    newest = columns(database)
    missing = set()
    for revision in range(LAST - 1, FIRST - 1, -1):
        database.downgrade(f"{revision:04}")
        for table, old in columns(database).items():
            for name in newest.get(table, {}).keys() - old.keys():
                column = newest[table][name]
                if not column["nullable"] and column["default"] is None:
                    missing.add(f"{table}.{name}")
    assert missing == {"garbage.home"}
