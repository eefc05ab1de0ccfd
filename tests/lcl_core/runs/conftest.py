"""A migrated database, on SQLite and on a real PostgreSQL, and runs to put in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lcl_core.runs import store
from lcl_core.runs.database import Database


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
            return store.submit(session, kind, spec or {}, **facts).id

    return submit


@pytest.fixture
def claim(database: Database) -> Callable[..., store.Claim]:
    """Claim the next run, which must exist."""

    def take(worker: str = "worker-1", lease_seconds: float = 30.0) -> store.Claim:
        with database.session() as session:
            claimed = store.claim_next(session, worker, lease_seconds)
        assert claimed is not None
        return claimed

    return take


@pytest.fixture
def run_of(database: Database) -> Callable[[str], Any]:
    """The row of a run as it is now."""

    def read(run_id: str) -> Any:
        with database.reading() as session:
            return store.get_run(session, run_id)

    return read
