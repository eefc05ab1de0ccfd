"""The benchmark of listing, on few rows: every page is asked for on both services, and filters find something."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.listing import COMMON_TAG, FILTERS, RARE_TAG, insert_runs, measure
from lcl_core.db import runs
from lcl_core.db.session import Database

pytestmark = pytest.mark.extended


def test_every_page_is_compared() -> None:
    report = measure("sqlite", many=200, few=20, times=1)
    assert report["rows"] == [200, 20]
    assert len(report["pages"]) == len({(page["asked_by"], page["filter"], page["page"]) for page in report["pages"]})
    assert len(report["pages"]) == 2 * len(FILTERS) * 2
    assert report["worst_ratio"] == max(page["ratio"] or 0 for page in report["pages"]) > 0
    for page in report["pages"]:
        assert (page["ratio"] is None) == (page["runs"][0] != page["runs"][1])
    assert sum(page["ratio"] is not None for page in report["pages"]) >= 10


def test_what_is_filled_in_is_what_filters_ask_for(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'lcl.db'}")
    database.migrate()
    insert_runs(database, 2500, ["ada", "bob"])
    with database.reading() as session:
        counted = runs.count_runs_by_state(session)
        found = {tag: len(runs.list_runs(session, tag=tag, limit=200).items) for tag in (COMMON_TAG, RARE_TAG)}
        newest = runs.list_runs(session, limit=200).items
        mine = runs.list_runs(session, owner="ada", state="failed", kind="index").items
    database.dispose()
    assert sum(counted.values()) == 2500
    assert all(counted[state] for state in ("queued", "running", "succeeded", "failed", "cancelled"))
    assert found == {COMMON_TAG: 200, RARE_TAG: 2}
    assert newest == sorted(newest, key=lambda run: run.created_at, reverse=True), "ids in the order of making"
    assert mine
