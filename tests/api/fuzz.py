"""``python -m tests.api.fuzz --calls 20000 --seed 0``: generated requests to every route, as every kind of caller.

Prints one JSON object. Exit status 1: there was a server error, an answer that the description does not allow, or one
that showed an owner's things to somebody else.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from pathlib import Path

import structlog

from tests.api.fuzzing.campaign import run_campaign
from tests.api.fuzzing.multi_owner_fixture import multi_owner_service


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.api.fuzz", description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    errors_only = structlog.make_filtering_bound_logger(logging.ERROR)
    structlog.configure(wrapper_class=errors_only, logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    with tempfile.TemporaryDirectory(prefix="lcl-fuzz-") as folder, multi_owner_service(Path(folder)) as multi_owner:
        began = time.monotonic()
        report = run_campaign(multi_owner, given.calls, given.seed)
        seconds = time.monotonic() - began
    print(json.dumps(report.facts(seconds), indent=1, ensure_ascii=False))  # noqa: T201
    return 0 if report.clean else 1


if __name__ == "__main__":
    raise SystemExit(main())
