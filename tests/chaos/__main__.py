"""``python -m tests.chaos --faults 200 --runs 60 --seed 0 [--json]``: a trial on this machine's processes.

Prints what was done and what was found; exit status 1 for any violation.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from tests.chaos.report import print_report, run_local_trial


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--real", type=int, default=4, help="how many of the runs are the product's own pre-training")
    parser.add_argument("--sqlite", action="store_true", help="on SQLite; nothing is done to the database then")
    parser.add_argument("--keep", action="store_true", help="keep the folder (it is kept after a violation anyhow)")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    given = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="lcl-chaos-"))
    report = run_local_trial(
        home,
        faults=given.faults,
        runs=given.runs,
        seed=given.seed,
        postgres=not given.sqlite,
        workers=given.workers,
        real=given.real,
    )
    if given.keep or report["violations"]:
        report["home"] = str(home)
    else:
        shutil.rmtree(home)
    return print_report(report, as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
