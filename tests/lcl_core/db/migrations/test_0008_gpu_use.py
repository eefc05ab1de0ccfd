"""Workers of before are there still, and have told of no GPU."""

from __future__ import annotations

from sqlalchemy import text

from lcl_core.db.session import Database
from lcl_core.db.workers import WorkerIdentity, gpu_usage, record_heartbeat


def test_a_worker_of_before_tells_of_its_gpus_with_its_next_sign_of_life(database: Database) -> None:
    worker = WorkerIdentity("w", "here", 7, 1, ("NVIDIA L4",), ("cpu", "gpu"))
    use = {"name": "NVIDIA L4", "utilization": 0.5, "memory_used": 1.0, "memory_total": 2.0}
    with database.session() as session:
        record_heartbeat(session, worker, [use])
    database.downgrade("0007")
    database.migrate()
    with database.session() as session:
        assert gpu_usage(session) == []
        record_heartbeat(session, worker, [use])
    with database.session() as session:
        assert gpu_usage(session) == [("w", 0, use)]
        assert session.execute(text("SELECT count(*) FROM worker")).scalar() == 1
