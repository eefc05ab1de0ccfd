"""Runs of before ask for what their kind needs, and going back loses nothing that the older version knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import inspect

from lcl_core.db import runs
from lcl_core.db.session import Database
from lcl_core.db.workers import WorkerIdentity, record_heartbeat


def columns(database: Database, table: str) -> set[str]:
    return {column["name"] for column in inspect(database.engine).get_columns(table)}


def test_back_and_forth(database: Database, queue: Callable[..., str], run_of: Callable[[str], Any]) -> None:
    training, reading, choosy = queue(), queue("validate", {"path": "/data"}), queue(resource="gpu")
    with database.session() as session:
        record_heartbeat(session, WorkerIdentity("w", "host", 1, 1, ("NVIDIA L4",), ("cpu", "gpu")))
    database.downgrade("0005")
    assert not {"resource", "nodes"} & columns(database, "run")
    assert "seat" not in inspect(database.engine).get_table_names()
    assert "offers" not in columns(database, "worker")
    database.migrate()
    assert run_of(training).nodes == 1
    assert [run_of(run_id).resource for run_id in (training, reading, choosy)] == ["accelerator", "cpu", "accelerator"]
    with database.reading() as session:
        (worker,) = runs.list_workers(session)
    assert (worker.devices, worker.offers) == (["NVIDIA L4"], ["cpu"])
