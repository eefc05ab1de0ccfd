"""A PostgreSQL that permits no writes for a while: its connections count as lost, and new ones are tried."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from lcl_core.db import leases, runs
from lcl_core.db.session import UNREACHABLE, Database

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def make_read_only(database: Database) -> None:
    """The pool's only connection is as one to a primary server that has become a replica."""
    database.dispose()
    with database.session() as session:
        session.execute(text("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"))


def test_a_read_only_connection_is_unreachable_once_and_replaced(database: Database, queue: Callable[..., str]) -> None:
    make_read_only(database)
    with pytest.raises(UNREACHABLE, match="read-only transaction") as caught:
        queue()
    assert isinstance(caught.value, DBAPIError)
    assert caught.value.connection_invalidated
    run_id = queue()  # on a new connection
    with database.reading() as session:
        assert [run.id for run in runs.list_runs(session).items] == [run_id]


def test_all_connections_of_the_pool_are_replaced(database: Database, queue: Callable[..., str]) -> None:
    database.dispose()
    with database.session() as first, database.session() as second:
        for session in (first, second):
            session.execute(text("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"))
    with pytest.raises(UNREACHABLE):
        queue()
    with database.session() as first, database.session() as second:
        for session in (first, second):
            assert session.scalar(text("SHOW transaction_read_only")) == "off"


def test_while_it_lasts_every_write_is_unreachable_and_reads_go_on(
    database: Database, queue: Callable[..., str], claim: Callable[..., leases.Claim], run_of: Callable[[str], Any]
) -> None:
    run_id = queue()
    lease = claim()

    def refuse(connection: Any, _record: object) -> None:
        connection.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
        connection.commit()

    event.listen(database.writer, "connect", refuse)
    database.dispose()
    for step in range(3):
        with pytest.raises(UNREACHABLE), database.session() as session:
            leases.record_metrics(session, lease, [{"step": step}])
    assert run_of(run_id).state == "running"
    event.remove(database.writer, "connect", refuse)
    with database.session() as session:
        leases.record_metrics(session, lease, [{"step": 4}])
    with database.reading() as session:
        assert [line.step for line in runs.metrics_after(session, run_id)] == [4]
