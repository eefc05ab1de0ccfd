"""Latency of a claim while several workers drain a full queue, and proof that no run is claimed twice.

The product's claim loops run in processes of their own and start no job, so they claim all the time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import func, select

from benchmarks.databases import database_for
from benchmarks.load import percentile_ms
from deploy.process import PROJECT
from lcl_core.common.errors import UserError
from lcl_core.db import states, submit
from lcl_core.db.complete_run import RunSucceeded, complete_run
from lcl_core.db.leases import Claim, begin_attempt
from lcl_core.db.models import Run
from lcl_core.db.session import UNREACHABLE, Database
from lcl_core.db.workers import WorkerIdentity
from workers.claim_loop import ClaimLoop

OWNERS = 5
READY = "ready"
LEASE_SECONDS = 30.0
LIMIT_SECONDS = 1800.0


@dataclass
class ClaimLog:
    """Run ids that one worker claimed, and the seconds of each claim."""

    claimed: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=4)


def main(options: argparse.Namespace) -> None:
    print(json.dumps(measure(options.database, options.runs, options.workers), indent=1))


def measure(kind: str, runs: int, workers: int) -> dict[str, Any]:
    """Queue the runs, let the workers drain them. Raises: UserError ``claimed_twice`` or ``worker_failed``."""
    with TemporaryDirectory(prefix="lcl-bench-") as folder, database_for(kind, Path(folder)) as url:
        database = Database(url)
        try:
            database.migrate()
            queued = _queue(database, runs)
            logs, seconds = _drain(url, Path(folder), workers)
            once = _check(database, queued, logs)
        finally:
            database.dispose()
    waits = [wait for log in logs for wait in log.waits]
    return {
        "database": kind,
        "workers": workers,
        "runs": runs,
        "claimed_once": once,
        "by_worker": [len(log.claimed) for log in logs],
        "runs_per_s": round(runs / seconds, 1),
        "claim_p50_ms": percentile_ms(waits, 50),
        "claim_p99_ms": percentile_ms(waits, 99),
        "claim_worst_ms": percentile_ms(waits, 100),
    }


def _queue(database: Database, runs: int) -> set[str]:
    with database.session() as session:
        spec = {"dataset": "sample"}
        made = [submit.submit(session, "validate", spec, owner=f"owner-{number % OWNERS}") for number in range(runs)]
        return {run.id for run in made}


def _drain(url: str, home: Path, workers: int) -> tuple[list[ClaimLog], float]:
    """Start the workers together and wait until the queue is empty. Returns: their logs, and seconds."""
    command = [sys.executable, "-m", "benchmarks.claims", url, str(home)]
    pipe: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": PROJECT}
    started = [subprocess.Popen(command, **pipe) for _ in range(workers)]
    try:
        for process in started:
            assert process.stdout is not None
            if process.stdout.readline().strip() != READY:
                raise UserError("a worker did not start; its error is above", code="worker_failed")
        began = time.perf_counter()
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        outputs = [process.communicate(timeout=LIMIT_SECONDS)[0] for process in started]
        return [ClaimLog(**json.loads(text.splitlines()[-1])) for text in outputs], time.perf_counter() - began
    finally:
        for process in started:
            process.kill()
            process.wait()


def _check(database: Database, queued: set[str], logs: list[ClaimLog]) -> int:
    """Number of runs done, each by one worker in one attempt. Raises: UserError ``claimed_twice``."""
    claimed = Counter(run_id for log in logs for run_id in log.claimed)
    ended = select(func.count()).select_from(Run).where(Run.state == states.State.SUCCEEDED.value, Run.attempt == 1)
    with database.reading() as session:
        done = session.scalars(ended).one()
    if set(claimed) != queued or max(claimed.values()) != 1 or done != len(queued):
        summary = f"{len(claimed)} of {len(queued)} runs claimed, {claimed.most_common(1)}, {done} succeeded at once"
        raise UserError(f"not every run was done exactly once: {summary}", code="claimed_twice")
    return done


class _TimedClaimLoop(ClaimLoop):
    """The product's claim loop with a clock around the claim."""

    log: ClaimLog

    def _claim(self) -> Claim | None:
        began = time.perf_counter()
        claim = super()._claim()
        if claim is not None:
            self.log.waits.append(time.perf_counter() - began)
            self.log.claimed.append(claim.run_id)
        return claim


def _claim_all(url: str, home: Path) -> ClaimLog:
    """A worker: print ``ready``, start at a line on standard input, claim and complete runs until there is none."""
    database, log = Database(url), ClaimLog()

    def work(claim: Claim, stopping: threading.Event) -> None:
        with suppress(*UNREACHABLE):
            with database.session() as session:
                begin_attempt(session, claim, encoder_id=None, from_scratch=True)
            complete_run(database, claim, RunSucceeded({}), home / "runs" / claim.run_id, home, 0.0)
            return
        work(claim, stopping)  # the database was busy: the product's supervisor repeats its writes too

    worker = WorkerIdentity(f"worker-{os.getpid()}", "localhost", os.getpid(), 1, ("none",), ("cpu",))
    claim_loop = _TimedClaimLoop(worker, database, LEASE_SECONDS, work)
    claim_loop.log = log
    with database.reading() as session:
        session.connection()  # a worker is connected before its next claim
    print(READY, flush=True)
    sys.stdin.readline()
    claim_loop.notify()
    claim_loop.join()
    database.dispose()
    return log


if __name__ == "__main__":
    print(json.dumps(asdict(_claim_all(sys.argv[1], Path(sys.argv[2])))))
