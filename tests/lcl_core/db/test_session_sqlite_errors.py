"""A full disk, a damaged file, a file without rights: SQLite's errors name the file and the way out."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from lcl_core.common.errors import FailureCode, failure_code
from lcl_core.db.session import UNREACHABLE, Database, DatabaseDamaged, DatabaseUnusable


def database_at(path):
    return Database(f"sqlite:///{path}")


def test_a_full_disk_is_named(tmp_path):
    database = database_at(tmp_path / "lcl.db")
    with database.session() as session:
        session.execute(text("CREATE TABLE sheet (value TEXT)"))
        session.execute(text("PRAGMA max_page_count = 50"))
        with pytest.raises(DatabaseUnusable, match=r"no space left .*lcl\.db \(.* is full\); make room") as caught:
            session.execute(text("INSERT INTO sheet VALUES (:value)"), {"value": "sesame" * 50_000})
        assert "sesame" not in str(caught.value)
        assert isinstance(caught.value, UNREACHABLE), "what waits for a database goes on waiting"
        assert failure_code(caught.value, Path()) is FailureCode.DISK_FULL
        session.rollback()
    database.dispose()


def damage_header(path):
    path.write_bytes(b"x" * 8192)


def test_a_damaged_file_is_named_with_the_way_out(tmp_path):
    path = tmp_path / "lcl.db"
    database = database_at(path)
    database.migrate()
    database.dispose()
    assert not Path(f"{path}-wal").exists(), "all of it is in the one file"
    damage_header(path)
    again = database_at(path)
    with pytest.raises(DatabaseDamaged) as caught:
        again.migrate()
    said = str(caught.value)
    assert said.startswith(f"{path} is damaged (")
    assert said.endswith("restore a backup (docs/operations.md, Backup)")
    assert len(said.splitlines()) == 1
    again.dispose()


def age_version(path):
    """As a later version leaves it."""
    database = database_at(path)
    database.migrate()
    with database.session() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.dispose()


@pytest.mark.parametrize(
    ("module", "spoil", "words"),
    [
        ("api", damage_header, "/lcl.db is damaged (file is not a database); stop the service and restore"),
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
