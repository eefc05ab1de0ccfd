"""A migration of a table that is in use: those who use it go on, and the migration follows when it is free."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from lcl_core.db import session as db_session
from lcl_core.db.migrations import lock_waits
from lcl_core.db.session import Database

REVISION = text("SELECT version_num FROM alembic_version")
READ = text("SELECT count(*) FROM run")
WAITING = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'")


@pytest.fixture
def others(empty_postgres: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """Connections of those who use the tables; a statement that waits too long fails."""
    monkeypatch.setattr(lock_waits, "LOCK_SECONDS", 0.5)
    monkeypatch.setattr(lock_waits, "PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(db_session, "STATEMENT_SECONDS", 20.0)
    database = Database(empty_postgres)
    yield database
    database.dispose()


def revision(database: Database) -> str:
    with database.reading() as session:
        return str(session.scalars(REVISION).one())


@pytest.mark.parametrize("pooler", [None, "pooled_postgres"])
def test_reads_go_on_while_a_migration_waits_for_one_that_began_before(
    others: Database, pooler: str | None, request: pytest.FixtureRequest, eventually: Callable[..., None]
) -> None:
    database = Database(request.getfixturevalue(pooler) if pooler else others.url, pooled=bool(pooler))
    database.migrate()
    newest = revision(others)
    database.downgrade("0030")

    def somebody_waits() -> bool:
        with others.reading() as session:
            return bool(session.scalar(WAITING))

    with capture_logs() as logs, ThreadPoolExecutor(1) as pool:
        with others.reading() as holder:
            holder.execute(READ)
            migration = pool.submit(database.migrate)
            for _attempt in range(3):
                eventually(lambda: somebody_waits() or migration.done(), "an attempt of the migration")
                with others.reading() as session:
                    assert session.scalar(READ) == 0
            assert not migration.done()
            assert revision(others) == "0031", "each migration is committed by itself"
        migration.result(180)
    assert revision(others) == newest
    (line,) = [line for line in logs if line["event"] == "migration_waits"]
    assert line["statement"].startswith("ALTER TABLE run ADD COLUMN metrics_marks")
    database.dispose()
