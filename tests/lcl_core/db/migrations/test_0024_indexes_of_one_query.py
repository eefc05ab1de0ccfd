"""Claims read runs of several nodes, and runs with processes, from their index, whatever the order of the indexes."""

from __future__ import annotations

import random

import pytest
from sqlalchemy import inspect

from lcl_core.db.models import Run
from lcl_core.db.session import Database
from tests.lcl_core.db.migrations.plans import check_read_in_order

QUERIES = {
    "ix_run_gangs": "SELECT * FROM run WHERE state = 'queued' AND nodes > 1",
    "ix_run_handles": (
        "SELECT id FROM run WHERE state = 'queued' AND handle IS NOT NULL AND nodes >= 1 "
        "AND resource IN ('cpu', 'gpu', 'accelerator')"
    ),
}


def columns_of_indexes(database: Database) -> dict[str | None, list[str | None]]:
    return {index["name"]: index["column_names"] for index in inspect(database.engine).get_indexes("run")}


def test_the_columns_come_and_go(database: Database) -> None:
    database.downgrade("0023")
    before = columns_of_indexes(database)
    assert (before["ix_run_gangs"], before["ix_run_handles"]) == (["state"], ["state", "id"])
    database.migrate()
    after = columns_of_indexes(database)
    assert (after["ix_run_gangs"], after["ix_run_handles"]) == (["state", "nodes"], ["state", "nodes", "id"])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_order_in_which_the_indexes_were_made_is_nothing_to_sqlite(database: Database, seed: int) -> None:
    indexes = sorted(Run.__table__.indexes, key=lambda index: str(index.name))  # type: ignore[attr-defined]
    random.Random(seed).shuffle(indexes)
    with database.writer.begin() as connection:
        for index in indexes:
            index.drop(connection)
            index.create(connection)
    for name, query in QUERIES.items():
        check_read_in_order(database, query, name)
