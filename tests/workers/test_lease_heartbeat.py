"""While a run's end is written its lease is renewed; of one that is lost nobody hears here."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime

from lcl_core.db import complete_run, runs
from lcl_core.db import queue as db_queue
from lcl_core.db.session import Database
from workers.settings import WorkerSettings
from workers.supervisor import lease_heartbeat


def test_a_lease_is_kept_until_the_run_is_settled(
    database: Database, settings: WorkerSettings, queue: Callable[..., str], eventually: Callable[..., None]
) -> None:
    run_id = queue()

    def expires() -> datetime | None:
        with database.reading() as session:
            return runs.get_run(session, run_id).lease_expires_at

    with database.session() as session:
        claim = db_queue.claim_next(session, "worker-1", settings.lease_seconds)
    assert claim is not None
    before, threads = expires(), threading.active_count()
    assert before is not None
    with lease_heartbeat(database, settings, claim):
        eventually(lambda: (expires() or before) > before, "a renewal", 60)
        assert (
            complete_run.complete_run(database, claim, complete_run.RunCancelled(), settings.home, settings.home, 1.0)
            == "cancelled"
        )
        eventually(lambda: threading.active_count() <= threads, "the end of the thread", 60)
    assert expires() is None
