"""The command that migrates: twice is as good as once, and a database that is away is said so."""

from __future__ import annotations

import pytest
from sqlalchemy import inspect

from lcl_core.db.migrations.__main__ import main
from lcl_core.db.session import Database


def test_it_makes_the_tables_and_does_nothing_twice(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LCL_DATABASE_URL", database_url)
    assert [main(), main()] == [0, 0]
    database = Database(database_url)
    assert {"run", "tally", "alembic_version"} <= set(inspect(database.engine).get_table_names())
    database.dispose()


def test_a_database_that_is_away_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LCL_DATABASE_URL", "postgresql+psycopg://lcl:sesame@127.0.0.1:1/lcl")
    assert main() == 1
    said = capsys.readouterr().err
    assert said.startswith("error: the database does not answer")
    assert "sesame" not in said
