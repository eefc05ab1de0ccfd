"""The handle of processes that outlive their worker."""

from __future__ import annotations

from sqlalchemy import inspect

from lcl_core.db.session import Database


def test_it_comes_and_goes(database: Database) -> None:
    database.downgrade("0018")
    assert "handle" not in {column["name"] for column in inspect(database.engine).get_columns("run")}
    database.migrate()
    (handle,) = [column for column in inspect(database.engine).get_columns("run") if column["name"] == "handle"]
    assert handle["nullable"], "older versions insert runs without it"
