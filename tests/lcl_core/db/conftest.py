"""A migrated database, on SQLite and on a real PostgreSQL, and runs to put in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from lcl_core.db import leases, runs
from lcl_core.db import queue as db_queue
from lcl_core.db import submit as db_submit
from lcl_core.db.session import Database


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'lcl.db'}"
    return request.getfixturevalue("empty_postgres")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    database.migrate()
    yield database
    database.dispose()


@pytest.fixture
def queue(database: Database) -> Callable[..., str]:
    """Submit a run; returns its id."""

    def submit(kind: str = "pretrain", spec: dict[str, Any] | None = None, **facts: Any) -> str:
        with database.session() as session:
            return db_submit.submit(session, kind, spec or {}, **facts).id

    return submit


@pytest.fixture
def claim(database: Database) -> Callable[..., leases.Claim]:
    """Claim the next run, which must exist."""

    def take(worker: str = "worker-1", lease_seconds: float = 30.0) -> leases.Claim:
        with database.session() as session:
            claimed = db_queue.claim_next(session, worker, lease_seconds)
        assert claimed is not None
        return claimed

    return take


@pytest.fixture
def run_of(database: Database) -> Callable[[str], Any]:
    """The row of a run as it is now."""

    def read(run_id: str) -> Any:
        with database.reading() as session:
            return runs.get_run(session, run_id)

    return read


@pytest.fixture
def objects(store_url: str) -> Callable[[], dict[str, int]]:
    """Names of everything in the store, and bytes."""

    def look() -> dict[str, int]:
        files, path = fsspec.core.url_to_fs(store_url)
        files.invalidate_cache()
        found = files.find(path, detail=True) if files.exists(path) else {}
        return {name[len(path) :].strip("/"): facts["size"] for name, facts in found.items()}

    return look
