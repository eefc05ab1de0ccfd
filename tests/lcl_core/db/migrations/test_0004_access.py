"""Keys and runs from before the audit log are still there afterwards, and after going back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy import inspect, text

from lcl_core.db import audit, runs
from lcl_core.db.models import ApiKey
from lcl_core.db.session import Database

NEW = {"previous_hash", "previous_until", "rotated_at"}


def columns(database: Database) -> set[str]:
    return {column["name"] for column in inspect(database.engine).get_columns("api_key")}


def test_keys_stay_and_the_log_begins_empty(database: Database, queue: Callable[..., str]) -> None:
    run_id, moment = queue(owner="ada"), datetime.now(UTC)
    with database.session() as session:
        session.add(ApiKey(prefix="lcl_1", hash="h", role="viewer", owner="ada", created_at=moment))
        audit.record_action(session, "ada", "lcl_1", "runs.submit", run_id)
    database.downgrade("0003")
    assert not NEW & columns(database)
    assert "audit" not in inspect(database.engine).get_table_names()
    assert "ix_run_owner_id" not in {index["name"] for index in inspect(database.engine).get_indexes("run")}
    with database.engine.connect() as connection:
        assert connection.execute(text("SELECT hash FROM api_key")).scalars().all() == ["h"]
    database.migrate()
    assert columns(database) >= NEW
    with database.reading() as session:
        key = session.get_one(ApiKey, "lcl_1")
        assert (key.created_at, key.previous_hash, key.rotated_at) == (moment, None, None)
        assert [run.id for run in runs.list_runs(session, owner="ada").items] == [run_id]
        assert audit.list_audit(session).items == []
    with database.session() as session:
        audit.record_action(session, "ada", "lcl_1", "runs.cancel", run_id)
