"""Through PgBouncer in transaction mode each transaction may have another server connection than the one before."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from lcl_core.db import runs, submit
from lcl_core.db import session as module
from lcl_core.db.session import UNREACHABLE, Database, allow_long_statements
from tests.pgbouncer import SERVER_CONNECTIONS

LIMITS = text("SELECT current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout')")


@pytest.fixture
def pooled(pooled_postgres: str) -> Iterator[Database]:
    database = Database(pooled_postgres, pooled=True)
    database.migrate()
    yield database
    database.dispose()


def test_every_transaction_has_its_limits_and_leaves_none(pooled: Database) -> None:
    for _ in range(3):
        with pooled.session() as session:
            assert session.execute(LIMITS).one() == ("1min", "15s")
        with pooled.reading() as session:
            assert session.execute(LIMITS).one() == ("1min", "0")
        with pooled.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            assert connection.execute(LIMITS).one() == ("0", "0"), "the session of all clients is as it was"


def test_the_server_ends_long_statements(pooled_postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STATEMENT_SECONDS", 0.2)
    database = Database(pooled_postgres, pooled=True)
    for transaction in (database.session, database.reading):
        with pytest.raises(UNREACHABLE, match="statement timeout"), transaction() as session:
            session.execute(text("SELECT pg_sleep(60)"))
    with database.session() as session:
        allow_long_statements(session)
        session.execute(text("SELECT pg_sleep(0.4)"))
    database.dispose()


def test_more_clients_than_connections(pooled: Database) -> None:
    """Each statement often enough to be prepared, by clients that take turns on the connections."""

    def submit_and_read(number: int) -> str:
        with pooled.session() as session:
            run_id = submit.submit(session, "pretrain", {"seed": number}).id
        with pooled.reading() as session:
            assert runs.get_run(session, run_id).spec["seed"] == number
        return run_id

    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(submit_and_read, range(80)))
    assert len(made) == 80
    with pooled.reading() as session:
        count = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND datname = :name"
        assert session.scalars(text(count), {"name": pooled.engine.url.database}).one() <= SERVER_CONNECTIONS


def test_migrations_go_down_and_up_again(pooled: Database) -> None:
    pooled.downgrade("base")
    pooled.migrate()
    with pooled.reading() as session:
        assert runs.list_runs(session).items == []
