"""Queued runs in one statement, for tests of long queues."""

from datetime import timedelta

from sqlalchemy import insert

from lcl_core.db.models import Run
from lcl_core.db.session import now


def add_runs(database, rows):
    """Insert queued runs; ``after``: seconds after which each was queued."""
    with database.session() as session:
        start = now(session) - timedelta(hours=1)
        common = {"kind": "validate", "spec": {}, "spec_hash": "0", "body_hash": "0"}
        common |= {"state": "queued", "created_at": start}
        moments = ({"queued_at": start + timedelta(seconds=row.pop("after")), "ready_at": start} for row in rows)
        session.execute(insert(Run), [common | moment | row for row, moment in zip(rows, moments, strict=True)])
