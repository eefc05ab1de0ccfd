"""What nothing names is noted by home, and going back leaves the older version its own table."""

from __future__ import annotations

from sqlalchemy import inspect

from lcl_core.runs.database import Database, now
from lcl_core.runs.deposits import deposit_of, expect
from lcl_core.runs.tables import Garbage


def columns(database: Database, table: str) -> set[str]:
    return {column["name"] for column in inspect(database.engine).get_columns(table)}


def test_back_and_forth(database: Database) -> None:
    with database.session() as session:
        expect(session, "runs/run_1", 1, "h" * 32)
        session.add_all(Garbage(home=home, path="runs/run_2", seen_at=now(session)) for home in ("", "h" * 32))
    database.downgrade("0006")
    assert columns(database, "garbage") == {"path", "seen_at"}
    assert "deposit" not in inspect(database.engine).get_table_names()
    database.migrate()
    assert columns(database, "garbage") == {"home", "path", "seen_at"}
    with database.reading() as session:
        assert deposit_of(session, "runs/run_1") is None
