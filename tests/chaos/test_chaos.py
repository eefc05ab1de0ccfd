"""Everything of the service is killed in turn while runs are asked for, and none is lost, doubled or bent."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.fault_plan import POSTGRES_FAULTS, PROCESS_FAULTS
from tests.chaos.report import run_local_trial

pytestmark = [pytest.mark.e2e, pytest.mark.extended]


@pytest.mark.parametrize(("database", "faults", "seed"), [("postgresql", 12, 3), ("sqlite", 8, 4)])
def test_whatever_is_killed_nothing_is_lost_doubled_or_bent(
    database: str, faults: int, seed: int, tmp_path: Path
) -> None:
    on_postgres = database == "postgresql"
    report = run_local_trial(
        tmp_path / "home", faults=faults, runs=faults - 2, seed=seed, postgres=on_postgres, workers=2, step_seconds=0.02
    )
    assert report["violated"] == {}
    assert (report["database"], report["faults"], report["runs"]) == (database, faults, faults - 2)
    expected = set(PROCESS_FAULTS) - (set() if on_postgres else set(POSTGRES_FAULTS))
    assert set(report["faults_by_kind"]) == expected, "no kind was left out"
    assert not [line for line in report["logged"] if "_failed" in line], "no part was taken by surprise"
