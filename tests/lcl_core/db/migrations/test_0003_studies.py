"""Runs from before there were studies are still there afterwards, and after going back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import inspect, text

from lcl_core.db import studies
from lcl_core.db.session import Database
from lcl_core.specs.parsing import parse_as
from lcl_core.specs.study import StudySpec

NEW = {"spec_hash", "study_id", "continues"}


def columns(database: Database) -> set[str]:
    return {column["name"] for column in inspect(database.engine).get_columns("run")}


def test_old_runs_stay_and_are_not_taken_over(
    database: Database, queue: Callable[..., str], run_of: Callable[[str], Any]
) -> None:
    old = queue(spec={"steps": 3}, tags=["kept"])
    database.downgrade("0002")
    assert not NEW & columns(database)
    assert {"study", "study_cell"}.isdisjoint(inspect(database.engine).get_table_names())
    with database.engine.connect() as connection:
        assert connection.execute(text("SELECT id FROM run")).scalars().all() == [old]
    database.migrate()
    assert columns(database) >= NEW
    run = run_of(old)
    assert (run.spec["steps"], list(run.tags), run.spec_hash, run.study_id) == (3, ["kept"], None, None)
    spec = {"metrics": [{"name": "m", "metric": "IR@5"}], "pretrain": {"steps": 3}}
    with database.session() as session:
        study = studies.create_study(session, parse_as(StudySpec, spec))
        (cell,) = studies.study_cells(session, study.id)
    assert cell.run.id != old


def test_going_back_keeps_the_runs_of_a_study(database: Database) -> None:
    spec = {"metrics": [{"name": "m", "metric": "IR@5"}], "seeds": [0, 1]}
    with database.session() as session:
        studies.create_study(session, parse_as(StudySpec, spec))
    database.downgrade("0002")
    with database.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM run WHERE state = 'queued'")).scalar() == 2
    database.migrate()
