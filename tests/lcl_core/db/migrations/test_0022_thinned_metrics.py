"""Thinned metrics: the lines of runs of before have not been thinned."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import inspect

from lcl_core.db import runs
from lcl_core.db.session import Database


def test_it_comes_and_goes(database: Database, queue: Callable[..., str]) -> None:
    run_id = queue()
    database.downgrade("0021")
    assert "metrics_thinned" not in {column["name"] for column in inspect(database.engine).get_columns("run")}
    database.migrate()
    with database.reading() as session:
        assert runs.get_run(session, run_id).metrics_thinned is False
