"""The indexes of claims come and go, and the parts of a claim are read from them in order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import inspect

from lcl_core.db import queue as db_queue
from lcl_core.db.session import Database
from tests.lcl_core.db.migrations.plans import check_read_in_order

NAMES = {"ix_run_heads", "ix_run_handles"}
NEED = "state = 'queued' AND resource = 'cpu' AND gpus = 0 AND nodes = 1"


def indices(database: Database) -> set[str | None]:
    return {index["name"] for index in inspect(database.engine).get_indexes("run")}


def test_they_come_and_go(database: Database, queue: Callable[..., str]) -> None:
    run_id = queue()
    database.downgrade("0019")
    assert NAMES.isdisjoint(indices(database))
    database.migrate()
    assert indices(database) >= NAMES
    with database.session() as session:
        claim = db_queue.claim_next(session, "worker-1")
    assert claim is not None
    assert claim.run_id == run_id


@pytest.mark.parametrize(
    "query",
    [
        f"SELECT id FROM run WHERE {NEED} AND owner > 'ada' ORDER BY owner LIMIT 1",
        f"SELECT priority FROM run WHERE {NEED} AND owner = 'ada' ORDER BY priority DESC LIMIT 1",
        f"SELECT id FROM run WHERE {NEED} AND owner = 'ada' AND priority = 3 ORDER BY queued_at, id LIMIT 1",
    ],
)
def test_the_first_run_of_an_owner_and_need_is_read_from_one(database: Database, query: str) -> None:
    check_read_in_order(database, query, "ix_run_heads")
