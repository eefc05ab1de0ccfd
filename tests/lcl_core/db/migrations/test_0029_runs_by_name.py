"""The index by which runs are found by name comes and goes, and is used whoever asks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import inspect

from lcl_core.common.errors import UserError
from lcl_core.db.models import Run
from lcl_core.db.runs import find_owned
from lcl_core.db.session import Database
from tests.lcl_core.db.migrations.plans import check_read_in_order

INDEX = "ix_run_name_owner_id"


def indices(database: Database) -> set[str | None]:
    return {index["name"] for index in inspect(database.engine).get_indexes("run")}


def test_it_comes_and_goes(database: Database, queue: Callable[..., str]) -> None:
    named, twin, _ = queue(name="red"), queue(name="red", owner="ada"), queue(owner="ada")
    database.downgrade("0028")
    assert INDEX not in indices(database)
    database.migrate()
    assert INDEX in indices(database)
    with database.reading() as session:
        assert find_owned(session, Run, "red", "local").id == named
        assert find_owned(session, Run, "red", "ada").id == twin
        with pytest.raises(UserError, match=f"{twin}, {named}$"):
            find_owned(session, Run, "red")
        with pytest.raises(UserError, match="did you mean 'red'"):
            find_owned(session, Run, "redd", "ada")


def test_the_runs_of_a_name_are_read_from_it(database: Database) -> None:
    query = "SELECT id FROM run WHERE name = 'red' AND owner = 'ada' ORDER BY id DESC LIMIT 4"
    check_read_in_order(database, query, INDEX)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_admin_reads_its_entries_alone(database: Database) -> None:
    with database.engine.connect() as connection:
        query = "SELECT id FROM run WHERE name = 'red' ORDER BY id DESC LIMIT 4"
        plan = str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}").fetchall())
    assert f"COVERING INDEX {INDEX} (name=?)" in plan


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("owner", [None, "ada"])
def test_an_unknown_name_reads_no_whole_history(database: Database, owner: str | None) -> None:
    with database.reading() as session:
        steps: list[str] = []
        driver = session.connection().connection.driver_connection
        assert driver is not None
        driver.set_trace_callback(steps.append)
        with pytest.raises(UserError):
            find_owned(session, Run, "absent", owner)
        driver.set_trace_callback(None)
        plans = [str(session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {step}").fetchall()) for step in steps]
    assert len(plans) == 3
    assert all("USING" in plan for plan in plans)
    assert "TEMP B-TREE" not in plans[-1]
