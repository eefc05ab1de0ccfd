"""A full disk or a damaged file: SQLite's error is recognised, shows no value, and ends a process in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from lcl_core.common.errors import FailureCode, failure_code
from lcl_core.db.session import UNREACHABLE, Database


def test_a_full_disk_is_named(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/lcl.db")
    with database.session() as session:
        session.execute(text("CREATE TABLE sheet (value TEXT)"))
        session.execute(text("PRAGMA max_page_count = 50"))
        with pytest.raises(UNREACHABLE, match="disk is full") as caught:
            session.execute(text("INSERT INTO sheet VALUES (:value)"), {"value": "sesame" * 50_000})
        assert "sesame" not in str(caught.value)
        assert failure_code(caught.value, Path()) is FailureCode.DISK_FULL
        session.rollback()
    database.dispose()


def damage_header(path):
    path.write_bytes(b"x" * 8192)


def age_version(path):
    """As a later version leaves it."""
    database = Database(f"sqlite:///{path}")
    database.migrate()
    with database.session() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.dispose()


@pytest.mark.parametrize(
    ("module", "spoil", "words"),
    [
        ("api", damage_header, "file is not a database"),
        ("workers", age_version, "another version of the service has migrated the database"),
    ],
)
def test_every_process_tells_of_an_unusable_database_in_one_line(spoil, words, module, tmp_path):
    spoil(tmp_path / "lcl.db")
    done = subprocess.run(
        [sys.executable, "-m", module],
        env={**os.environ, "LCL_HOME": str(tmp_path), "LCL_API_PORT": "0", "LCL_LOG_FORMAT": "json"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 1
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
