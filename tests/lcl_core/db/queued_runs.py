"""Queued runs in one statement, for tests of long queues."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import insert, text

from lcl_core.db.models import Run
from lcl_core.db.session import Database, now


def add_runs(database: Database, rows: Sequence[dict[str, Any]]) -> None:
    """Insert queued runs; ``after``: seconds after which each was queued."""
    with database.session() as session:
        start = now(session) - timedelta(hours=1)
        common = {"kind": "validate", "spec": {}, "body_hash": "0", "state": "queued", "created_at": start}
        moments = ({"queued_at": start + timedelta(seconds=row.pop("after")), "ready_at": start} for row in rows)
        session.execute(insert(Run), [common | moment | row for row, moment in zip(rows, moments, strict=True)])
    with database.engine.connect() as connection:  # with the statistics that tell the indexes of queued runs apart
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("ANALYZE"))
