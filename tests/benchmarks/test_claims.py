"""The benchmark of claims, on few: every run once, and a run that was done twice is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.claim_worker import ClaimLog
from benchmarks.claims import _check, _queue, measure, measure_depths
from lcl_core.common.errors import UserError
from lcl_core.db.session import Database

pytestmark = pytest.mark.extended


def test_every_run_is_done_once() -> None:
    report = measure("sqlite", runs=30, workers=2)
    assert report["claimed_once"] == sum(report["by_worker"]) == 30
    assert 0 < report["claim_p50_ms"] <= report["claim_p99_ms"] <= report["claim_worst_ms"]


def test_claims_from_queues_of_several_depths() -> None:
    report = measure_depths("sqlite", depths=[20, 60], owners=4, claims=5)
    assert [each["queued"] for each in report["depths"]] == [20, 60]
    first, last = (each["claim_p99_ms"] for each in report["depths"])
    assert report["ratio"] == round(last / first, 2) > 0
    assert all(each["claim_cpu_ms"] > 0 for each in report["depths"])
    with pytest.raises(UserError) as caught:
        measure_depths("sqlite", depths=[3], owners=1, claims=4)
    assert caught.value.field == "runs"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'lcl.db'}")
    database.migrate()
    yield database
    database.dispose()


def test_what_was_claimed_twice_or_not_at_all_is_reported(database: Database) -> None:
    first, second = sorted(_queue(database, 2))
    for claimed in ([[first, second], [first]], [[first], []]):
        with pytest.raises(UserError) as caught:
            _check(database, {first, second}, [ClaimLog(run_ids, [0.1] * len(run_ids)) for run_ids in claimed])
        assert caught.value.code == "claimed_twice"
