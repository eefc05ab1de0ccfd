"""A trial on a fresh estate, from its start to its report."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine

from tests.chaos.estate import Estate, processes_of
from tests.chaos.local import LocalGround, read_logs
from tests.chaos.orders import REAL_SPEC, orders
from tests.chaos.plan import OF_POSTGRES, PROCESSES, plan
from tests.chaos.trial import hold
from tests.chaos.verdicts import Facts, judge

Json = dict[str, Any]


def hold_here(
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
    natures = {kind: nature for kind, nature in PROCESSES.items() if postgres or kind not in OF_POSTGRES}
    with Estate(home, postgres=postgres, workers=workers, step_seconds=step_seconds) as estate:
        engine = create_engine(estate.database_url, pool_pre_ping=True)
        ground = LocalGround(estate, engine)
        asked = orders(seed, runs, real)
        facts, figures = hold(ground, plan(seed, faults, natures), asked, REAL_SPEC if real else None)
        engine.dispose()
    facts.left = list(processes_of(estate.home).values())
    about = {"seed": seed, "database": engine.dialect.name, "workers": workers}
    return reported(about | figures | {"logged": read_logs(estate.home / "logs")}, facts, started)


def reported(figures: Json, facts: Facts, started: float) -> Json:
    """The figures with the verdict: how many violations, which, and how long it all took."""
    verdict = judge(facts)
    return {
        **figures,
        "violations": sum(map(len, verdict.values())),
        "violated": {name: lines for name, lines in verdict.items() if lines},
        "seconds": round(time.monotonic() - started, 1),
    }


def printed(report: Json, as_json: bool) -> int:
    """Print a report; returns the exit status."""
    lines = [f"{name:22} {json.dumps(value, ensure_ascii=False)}" for name, value in report.items()]
    print(json.dumps(report) if as_json else "\n".join(lines))  # noqa: T201
    return 1 if report["violations"] else 0
