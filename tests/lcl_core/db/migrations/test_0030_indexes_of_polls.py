"""What workers query every few seconds reads its own rows alone, however many others there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event, inspect
from sqlalchemy.orm import Session

from lcl_core.db import artifacts, deletion, outbox, quotas, submit
from lcl_core.db.models import ArtifactUpload, StoredBytes
from lcl_core.db.session import Database, has_prefix
from tests.lcl_core.db.migrations.plans import check_read_in_order

INDEXES = {
    "run": {"ix_run_unthinned"},
    "deposit": {"ix_deposit_pending", "ix_deposit_path"},
    "stored_bytes": {"ix_stored_bytes_path"},
}
HERE = "a" * 32
PATHS = ["additions/col_1/ada", "additions/col_1/Bo", "additions/col_1/_", "additions/col_1/é", "additions/col_1/"]
OTHERS = ["additions/col_10/ada", "additions/col_1", "Additions/col_1/ada", "additionsXcol_1/ada", "runs/run_1"]


def names(database: Database, table: str) -> set[str | None]:
    return {index["name"] for index in inspect(database.engine).get_indexes(table)}


def test_they_come_and_go(database: Database) -> None:
    database.downgrade("0029")
    assert all(not expected & names(database, table) for table, expected in INDEXES.items())
    assert "ix_deposit_holder_next_at" in names(database, "deposit")
    database.migrate()
    assert all(expected <= names(database, table) for table, expected in INDEXES.items())
    assert "ix_deposit_holder_next_at" not in names(database, "deposit")


def test_the_paths_of_a_prefix_are_all_found_and_no_others(database: Database) -> None:
    with database.session() as session:
        session.add_all(StoredBytes(path=path, owner="ada", bytes=1) for path in PATHS + OTHERS)
    with database.reading() as session:
        condition = has_prefix(session, StoredBytes.path, "additions/col_1/")
        assert {row.path for row in session.query(StoredBytes).where(condition)} == set(PATHS)


def plan_of(database: Database, act: Callable[[Session], object]) -> str:
    """How SQLite goes about all statements of ``act``."""
    executed: list[tuple[str, Any]] = []

    def record(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        executed.append((statement, parameters))

    with database.session() as session:
        event.listen(database.engine, "before_cursor_execute", record)
        try:
            act(session)
        finally:
            event.remove(database.engine, "before_cursor_execute", record)
        driver = session.connection().connection.driver_connection
        assert driver is not None
        plans = [driver.execute(f"EXPLAIN QUERY PLAN {step}", given).fetchall() for step, given in executed]
    return "\n".join(str(step[3]) for plan in plans for step in plan)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_is_polled_is_read_from_an_index(database: Database) -> None:
    pending = plan_of(database, lambda session: outbox.has_due_uploads(session, HERE))
    assert "ix_deposit_pending (holder=? AND next_at<?)" in pending
    assert "ix_deposit_pending" in plan_of(database, outbox.count_pending_uploads)
    assert "ix_deposit_pending" in plan_of(database, outbox.longest_upload_wait)
    checkpoints = plan_of(database, lambda session: artifacts.stored_checkpoints(session, "run_1"))
    removed = plan_of(database, lambda session: outbox.delete_stored_checkpoints(session, "run_1"))
    additions = plan_of(database, lambda session: quotas.delete_collection_bytes(session, "col_1"))
    for plan in (checkpoints, removed, additions):
        assert "(path>? AND path<?)" in plan
    thinned = plan_of(database, lambda _: deletion.thin_ended_runs(database, 1.0))
    assert "ix_run_unthinned (finished_at<?)" in thinned
    assert "TEMP B-TREE" not in thinned


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_dependencies_are_read_of_waiting_runs_alone(database: Database) -> None:
    for act in (submit.has_releasable, submit.release_dependents):
        first, *others = plan_of(database, act).splitlines()
        assert "(state=?)" in first
        searches = [each for each in others if "SUBQUERY" not in each]
        assert len(searches) == 4
        assert all("(run_id=?" in each or "(id=?" in each for each in searches)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_prefix_is_a_range_of_an_index_in_any_collation(database: Database) -> None:
    for table, index in ((ArtifactUpload.__tablename__, "ix_deposit_path"), ("stored_bytes", "ix_stored_bytes_path")):
        query = f"SELECT * FROM {table} WHERE path ~>=~ 'additions/col_1/' AND path ~<~ 'additions/col_10'"
        check_read_in_order(database, query, index)
