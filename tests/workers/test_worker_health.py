"""The container's health check sees its own worker only, and only a lively one."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import update

from lcl_core.db.models import Worker
from lcl_core.db.session import Database, now
from lcl_core.db.workers import WorkerIdentity, record_heartbeat
from workers.health import has_live_worker


def test_health_is_a_recent_sign_of_life(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'lcl.db'}")
    database.migrate()
    assert not has_live_worker(database, "here", 5.0)
    with database.session() as session:
        record_heartbeat(session, WorkerIdentity("here-1", "here", 1, 1, ("cpu",)))
    assert has_live_worker(database, "here", 5.0)
    assert not has_live_worker(database, "elsewhere", 5.0)
    with database.session() as session:
        session.execute(update(Worker).values(seen_at=now(session) - timedelta(seconds=31)))
    assert not has_live_worker(database, "here", 5.0)
    database.dispose()
