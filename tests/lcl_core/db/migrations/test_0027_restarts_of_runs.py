"""Restarts: a run whose retry has not started is begun anew in every home, and no other run of before is."""

from __future__ import annotations

from collections.abc import Callable

from lcl_core.db import runs
from lcl_core.db.session import Database


def test_it_comes_and_goes(database: Database, queue: Callable[..., str]) -> None:
    plain, retried = queue(), queue()
    with database.session() as session:
        runs.cancel_run(session, retried)
        runs.retry_run(session, retried)
    database.downgrade("0026")
    database.migrate()
    with database.reading() as session:
        assert [runs.get_run(session, run_id).restarts for run_id in (plain, retried)] == [0, 1]
