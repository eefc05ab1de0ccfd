"""The benchmark of listing, on few rows: every page is asked for on both services, and filters find something."""

from __future__ import annotations

from pathlib import Path

from deploy.bench.filling import COMMON, RARE, fill
from deploy.bench.listing import FILTERS, measure
from lcl_core.runs import store
from lcl_core.runs.database import Database


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
    fill(database, 2500, ["ada", "bob"])
    with database.reading() as session:
        counted = store.count_by_state(session)
        found = {tag: len(store.list_runs(session, tag=tag, limit=200).items) for tag in (COMMON, RARE)}
        newest = store.list_runs(session, limit=200).items
        mine = store.list_runs(session, owner="ada", state="failed", kind="index").items
    database.dispose()
    assert sum(counted.values()) == 2500
    assert all(counted[state] for state in ("queued", "running", "succeeded", "failed", "cancelled"))
    assert found == {COMMON: 200, RARE: 2}
    assert newest == sorted(newest, key=lambda run: run.created_at, reverse=True), "ids in the order of making"
    assert mine
