"""While a run's end is written its lease is renewed; of one that is lost nobody hears here."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime

from lcl_core.runs import store
from lcl_core.runs.database import Database
from workers.keeping import kept_lease
from workers.settings import WorkerSettings


def test_a_lease_is_kept_until_the_run_is_settled(
    database: Database, settings: WorkerSettings, queue: Callable[..., str], eventually: Callable[..., None]
) -> None:
    run_id = queue()

    def expires() -> datetime | None:
        with database.reading() as session:
            return store.get_run(session, run_id).lease_expires_at

    with database.session() as session:
        claim = store.claim_next(session, "worker-1", settings.lease_seconds)
    assert claim is not None
    before, threads = expires(), threading.active_count()
    assert before is not None
    with kept_lease(database, settings, claim):
        eventually(lambda: (expires() or before) > before, "a renewal", 60)
        assert store.settle(database, claim, store.Cancelled(), settings.home, settings.home, 1.0) == "cancelled"
        eventually(lambda: threading.active_count() <= threads, "the end of the thread", 60)
    assert expires() is None
