"""The command that migrates: twice is as good as once, and a database that is away is said so."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import inspect, text

from lcl_core.db import migrations
from lcl_core.db.migrations.__main__ import main
from lcl_core.db.session import Database

VERSIONS = Path(migrations.__file__).parent / "versions"


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


@pytest.fixture
def newer(database_url: str) -> str:
    """A database that a later version has migrated."""
    database = Database(database_url)
    database.migrate()
    with database.session() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.dispose()
    return database_url


@pytest.mark.parametrize("arguments", [[], ["--to", "0028"]])
def test_a_database_of_a_newer_version_is_one_line_with_the_way_back(
    newer: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LCL_DATABASE_URL", newer)
    assert main(arguments) == 1
    (said,) = capsys.readouterr().err.splitlines()
    newest = sorted(file.name[:4] for file in VERSIONS.glob("0*.py"))[-1]
    assert said.startswith("error: a newer version has migrated the database (to revision 9999;")
    assert f"migrations --to {newest})" in said
