"""What nothing names is noted by home, and going back leaves the older version its own table."""

from __future__ import annotations

from sqlalchemy import inspect

from lcl_core.db.models import Garbage
from lcl_core.db.outbox import enqueue_upload, get_upload
from lcl_core.db.session import Database, now


def columns(database: Database, table: str) -> set[str]:
    return {column["name"] for column in inspect(database.engine).get_columns(table)}


def test_back_and_forth(database: Database) -> None:
    with database.session() as session:
        enqueue_upload(session, "runs/run_1", 1, "h" * 32)
        session.add_all(Garbage(home=home, path="runs/run_2", seen_at=now(session)) for home in ("", "h" * 32))
    database.downgrade("0006")
    assert columns(database, "garbage") == {"path", "seen_at"}
    assert "deposit" not in inspect(database.engine).get_table_names()
    database.migrate()
    assert columns(database, "garbage") == {"home", "path", "seen_at"}
    with database.reading() as session:
        assert get_upload(session, "runs/run_1") is None
