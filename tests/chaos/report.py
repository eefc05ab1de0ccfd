"""A trial on a fresh service, from its start to its report."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine

from tests.chaos.fault_plan import POSTGRES_FAULTS, PROCESS_FAULTS, plan_faults
from tests.chaos.invariants import Observations, check_invariants
from tests.chaos.local_faults import LocalTarget, read_logs
from tests.chaos.service_under_test import ServiceUnderTest, processes_of
from tests.chaos.trial import run_trial
from tests.chaos.workload import REAL_SPEC, plan_runs

Json = dict[str, Any]


def run_local_trial(
    home: Path,
    *,
    faults: int,
    runs: int,
    seed: int = 0,
    postgres: bool = True,
    workers: int = 3,
    real: int = 0,
    step_seconds: float = 0.05,
) -> Json:
    """Hold a trial in the empty folder ``home``; returns its report.

    Args:
        real: how many of the runs are the product's own pre-training.
        step_seconds: of the toy that the others run.
    """
    started = time.monotonic()
    natures = {kind: nature for kind, nature in PROCESS_FAULTS.items() if postgres or kind not in POSTGRES_FAULTS}
    with ServiceUnderTest(home, postgres=postgres, workers=workers, step_seconds=step_seconds) as estate:
        engine = create_engine(estate.database_url, pool_pre_ping=True)
        target = LocalTarget(estate, engine)
        planned = plan_runs(seed, runs, real)
        observed, figures = run_trial(target, plan_faults(seed, faults, natures), planned, REAL_SPEC if real else None)
        engine.dispose()
    observed.left = list(processes_of(estate.home).values())
    about = {"seed": seed, "database": engine.dialect.name, "workers": workers}
    return make_report(about | figures | {"logged": read_logs(estate.home / "logs")}, observed, started)


def make_report(figures: Json, observed: Observations, started: float) -> Json:
    """The figures with the verdict: how many violations, which, and how long it all took."""
    violations = check_invariants(observed)
    return {
        **figures,
        "violations": sum(map(len, violations.values())),
        "violated": {name: lines for name, lines in violations.items() if lines},
        "seconds": round(time.monotonic() - started, 1),
    }


def print_report(report: Json, as_json: bool) -> int:
    """Print a report; returns the exit status."""
    lines = [f"{name:22} {json.dumps(value, ensure_ascii=False)}" for name, value in report.items()]
    print(json.dumps(report) if as_json else "\n".join(lines))  # noqa: T201
    return 1 if report["violations"] else 0
