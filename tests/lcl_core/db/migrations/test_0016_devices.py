"""Runs of before need a GPU a process; workers of before name no device, and get none."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import inspect

from lcl_core.db.models import Worker
from lcl_core.db.runs import get_run
from lcl_core.db.session import Database
from lcl_core.db.workers import WorkerIdentity, record_heartbeat


def test_needs_follow_from_the_specs(database: Database, queue: Callable[..., str]) -> None:
    engine = {"engine": {"processes": 4}}
    ids = [queue(), queue(spec=engine), queue(spec=engine, resource="cpu"), queue("validate", {"path": "/data"})]
    with database.session() as session:
        record_heartbeat(session, WorkerIdentity("w", "host", 1, 1, ("NVIDIA L4",), ("cpu", "gpu"), ("GPU-a",)))
    database.downgrade("0015")
    assert "device" not in inspect(database.engine).get_table_names()
    database.migrate()
    with database.reading() as session:
        assert [get_run(session, run_id).gpus for run_id in ids] == [1, 4, 0, 0]
        assert session.get_one(Worker, "w").gpu_ids == []
