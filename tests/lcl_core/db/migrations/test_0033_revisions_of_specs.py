"""Revisions of specs: runs and workers of before have none, so every worker may claim those runs."""

from __future__ import annotations

from collections.abc import Callable

from lcl_core.db import runs
from lcl_core.db.models import Worker
from lcl_core.db.session import Database
from lcl_core.db.workers import WorkerIdentity, record_heartbeat
from lcl_core.specs.parsing import SPEC_REVISION


def test_it_comes_and_goes(database: Database, queue: Callable[..., str]) -> None:
    run_id = queue()
    with database.session() as session:
        record_heartbeat(session, WorkerIdentity("w", "host", 1, 1, ("cpu",)))
    for expected in (SPEC_REVISION, 0):
        with database.reading() as session:
            assert runs.get_run(session, run_id).spec_revision == expected
            assert session.get_one(Worker, "w").spec_revision == expected
        database.downgrade("0032")
        database.migrate()
