"""A database with its tables, on SQLite or as a parameter says on a real PostgreSQL, and runs to put in it."""

import fsspec
import pytest

from lcl_core.db import leases, runs
from lcl_core.db import queue as db_queue
from lcl_core.db import submit as db_submit
from lcl_core.db.session import Database


@pytest.fixture
def database_url(request, tmp_path):
    if getattr(request, "param", "sqlite") == "postgresql":
        return request.getfixturevalue("empty_postgres")
    return f"sqlite:///{tmp_path / 'lcl.db'}"


@pytest.fixture
def database(database_url):
    database = Database(database_url)
    database.migrate()
    yield database
    database.dispose()


@pytest.fixture
def queue(database):
    """Submit a run; returns its id."""

    def submit(kind="pretrain", spec=None, **facts):
        with database.session() as session:
            return db_submit.submit(session, kind, spec or {}, **facts).id

    return submit


@pytest.fixture
def claim(database):
    """Claim the next run, which must exist."""

    def take(worker="worker-1", lease_seconds=30.0):
        with database.session() as session:
            claimed = db_queue.claim_next(session, worker, lease_seconds)
        assert isinstance(claimed, leases.Claim)
        return claimed

    return take


@pytest.fixture
def run_of(database):
    """The row of a run as it is now."""

    def read(run_id):
        with database.reading() as session:
            return runs.get_run(session, run_id)

    return read


@pytest.fixture
def objects(store_url):
    """Names of everything in the store, and bytes."""

    def look():
        files, path = fsspec.core.url_to_fs(store_url)
        files.invalidate_cache()
        found = files.find(path, detail=True) if files.exists(path) else {}
        return {name[len(path) :].strip("/"): facts["size"] for name, facts in found.items()}

    return look
