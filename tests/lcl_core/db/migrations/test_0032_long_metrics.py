"""Steps above 2,147,483,647 are stored; an earlier version keeps the lines that it can store."""

from __future__ import annotations

from collections.abc import Callable

from lcl_core.db import leases, runs
from lcl_core.db.leases import Claim
from lcl_core.db.session import Database

BILLIONS = 5_000_000_000


def steps(database: Database, run_id: str, after: int | None = None) -> list[int]:
    with database.reading() as session:
        return [row.step for row in runs.metrics_after(session, run_id, step=after)]


def test_records_of_a_long_job_are_steps(
    database: Database, queue: Callable[..., str], claim: Callable[..., Claim]
) -> None:
    run_id = queue()
    database.downgrade("0031")
    database.migrate()
    with database.session() as session:
        lines = [{"step": step, "phase": "converting"} for step in (7, BILLIONS)]
        leases.record_metrics(session, claim(), lines)
    assert steps(database, run_id) == [7, BILLIONS]
    assert steps(database, run_id, after=2**31) == [BILLIONS]
    database.downgrade("0031")
    database.migrate()
    assert steps(database, run_id) == [7]
