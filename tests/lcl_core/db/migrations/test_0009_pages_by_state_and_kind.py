"""The index comes and goes, and pages are found by it."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import inspect

from lcl_core.db import runs
from lcl_core.db.session import Database
from tests.lcl_core.db.migrations.plans import check_read_in_order

NAME = "ix_run_state_kind_id"


def indices(database: Database) -> set[str | None]:
    return {index["name"] for index in inspect(database.engine).get_indexes("run")}


def test_back_and_forth(database: Database, queue: Callable[..., str]) -> None:
    wanted = queue("validate", {"path": "/data"})
    queue()
    database.downgrade("0008")
    assert NAME not in indices(database)
    database.migrate()
    assert NAME in indices(database)
    with database.reading() as session:
        found = runs.list_runs(session, state="queued", kind="validate").items
    assert [run.id for run in found] == [wanted]


def test_a_page_of_a_state_and_kind_is_read_from_it(database: Database) -> None:
    query = "SELECT id FROM run WHERE state = 'failed' AND kind = 'index' ORDER BY id DESC LIMIT 51"
    check_read_in_order(database, query, NAME)
