"""Migrations that agree with the tables, and many writers at once."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import event, inspect

from lcl_core.db import runs, submit
from lcl_core.db import session as module
from lcl_core.db.models import Base
from lcl_core.db.session import UNREACHABLE, Database


def table_names(database):
    return set(inspect(database.engine).get_table_names())


def test_migrations_make_the_tables_of_the_models(database):
    database.migrate()  # a second time changes nothing
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_processes_that_start_together_migrate_once(database_url):
    code = "import sys; from lcl_core.db.session import Database; Database(sys.argv[1]).migrate()"
    started = [
        subprocess.Popen([sys.executable, "-c", code, database_url], stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [(process.communicate()[1], process.returncode) for process in started] == [("", 0)] * 3
    database = Database(database_url)
    assert table_names(database) > set(Base.metadata.tables)
    database.dispose()


def test_a_failed_transaction_leaves_nothing(database, queue):
    def submit_and_fail():
        with database.session() as session:
            submit.submit(session, "pretrain", {})
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        submit_and_fail()
    with database.reading() as session:
        assert runs.list_runs(session).items == []


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_who_hangs_within_a_transaction_is_cut_off_and_finds_the_database_unreachable(database, queue, monkeypatch):
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.5)
    run_id = queue()
    hung = Database(database.url)

    def hang():
        with hung.session() as session:
            runs.pause_run(session, run_id)
            with database.session() as other:
                runs.cancel_run(other, run_id)  # waits for the row until the server has ended the hung one

    with pytest.raises(UNREACHABLE):
        hang()
    with hung.session() as session:
        assert runs.get_run(session, run_id).state == "cancelled"
    hung.dispose()


def test_writers_of_one_process_take_turns_on_sqlite(tmp_path):
    """Nobody is told that the database is locked, though nobody waits for it."""
    database = Database(f"sqlite:///{tmp_path / 'lcl.db'}")
    database.migrate()
    event.listen(database.engine, "connect", lambda connection, _record: connection.execute("PRAGMA busy_timeout=0"))

    def write(number):
        with database.session() as session:
            return submit.submit(session, "pretrain", {"seed": number}).id

    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(write, range(200)))
    with database.reading() as session:
        assert runs.count_runs_by_state(session)["queued"] == len(set(made)) == 200
    database.dispose()
