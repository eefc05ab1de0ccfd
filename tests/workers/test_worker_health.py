"""The container's health check sees its own worker only, and only a lively one."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from sqlalchemy import update

from lcl_core.runs.database import Database, now
from lcl_core.runs.roster import Identity, beat
from lcl_core.runs.tables import Worker
from workers.health import alive


def test_health_is_a_recent_sign_of_life(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'lcl.db'}")
    database.migrate()
    assert not alive(database, "here", 5.0)
    with database.session() as session:
        beat(session, Identity("here-1", "here", 1, 1, ("cpu",)))
    assert alive(database, "here", 5.0)
    assert not alive(database, "elsewhere", 5.0)
    with database.session() as session:
        session.execute(update(Worker).values(seen_at=now(session) - timedelta(seconds=31)))
    assert not alive(database, "here", 5.0)
    database.dispose()
