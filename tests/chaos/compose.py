"""``python -m tests.chaos.compose --faults 40 --seed 0 [--json]``: a trial on the team deployment's containers.

Needs Docker on this machine, as root, and the image (``docker compose build``). It makes a project of its own, with
fresh volumes, and takes it down again. Every run is the product's own pre-training.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace

from tests.chaos.compose_faults import CONTAINERS, ComposeTarget, trainers
from tests.chaos.fault_plan import plan_faults
from tests.chaos.report import make_report, print_report
from tests.chaos.trial import run_trial
from tests.chaos.workload import REAL_SPEC, plan_runs

LULL_SECONDS = (0.5, 4.0)
# in which a process that finds its run's folder held has left again
REFUSAL_SECONDS = 10.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.compose", description=__doc__)
    parser.add_argument("--faults", type=int, default=40)
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    given = parser.parse_args()
    started = time.monotonic()
    planned = [replace(planned, spec=REAL_SPEC) for planned in plan_runs(given.seed, given.runs)]
    faults = plan_faults(given.seed, given.faults, CONTAINERS, LULL_SECONDS)
    with ComposeTarget(given.workers) as target:
        observed, figures = run_trial(target, faults, planned, REAL_SPEC)
        figures["unwell"] = target.unwell()
    observed.grace = REFUSAL_SECONDS
    observed.left = list(trainers().values())
    about = {"seed": given.seed, "database": "postgresql in a container", "workers": given.workers}
    return print_report(make_report(about | figures, observed, started), given.json)


if __name__ == "__main__":
    sys.exit(main())
