"""Latency of a claim while several workers drain a full queue, and proof that no run is claimed twice.

The product's claim loops run in processes of their own and start no job, so they claim all the time. With ``--depths``
one worker claims instead, from queues of so many runs of ``--owners`` owners, one after the other.
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
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import func, insert, select, text

from benchmarks.databases import database_for
from benchmarks.load import percentile_ms
from deploy.process import PROJECT
from lcl_core.common.errors import UserError
from lcl_core.db import queue, states, submit
from lcl_core.db.complete_run import RunSucceeded, complete_run
from lcl_core.db.leases import Claim, begin_attempt
from lcl_core.db.models import Run
from lcl_core.db.session import Database, now
from lcl_core.db.workers import WorkerIdentity
from workers.claim_loop import ClaimLoop

OWNERS = 5
READY = "ready"
LEASE_SECONDS = 30.0
ROWS_AT_ONCE = 10_000
LIMIT_SECONDS = 1800.0


@dataclass
class ClaimLog:
    """Run ids that one worker claimed, and the seconds of each claim."""

    claimed: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--depths", type=int, nargs="+", help="queued runs, from which one worker claims --runs times")
    parser.add_argument("--owners", type=int, default=100, help="of the queued runs of --depths")


def main(options: argparse.Namespace) -> None:
    if options.depths:
        print(json.dumps(measure_depths(options.database, options.depths, options.owners, options.runs), indent=1))
        return
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


def measure_depths(kind: str, depths: Sequence[int], owners: int, claims: int) -> dict[str, Any]:
    """Claims from queues of so many runs; ``ratio``: p99 of the last depth ÷ p99 of the first."""
    results = [{"queued": depth, **_claim_from(kind, depth, owners, claims)} for depth in depths]
    ratio = round(results[-1]["claim_p99_ms"] / results[0]["claim_p99_ms"], 2)
    return {"database": kind, "owners": owners, "claims": claims, "depths": results, "ratio": ratio}


def _claim_from(kind: str, depth: int, owners: int, claims: int) -> dict[str, float]:
    """Three priorities, one need; what was claimed stays at work.

    ``claim_cpu_ms``: processor time of this process for a claim: the client's with PostgreSQL, all with SQLite.
    """
    with TemporaryDirectory(prefix="lcl-bench-") as folder, database_for(kind, Path(folder)) as url:
        database = Database(url)
        try:
            database.migrate()
            insert_runs(database, depth, owners)
            began = time.process_time()
            seconds = [_seconds_of_claim(database) for _ in range(claims)]
            spent = time.process_time() - began
        finally:
            database.dispose()
    latencies = {f"claim_p{rank}_ms": percentile_ms(seconds, rank) for rank in (50, 99)}
    return {**latencies, "claim_cpu_ms": round(spent / claims * 1000, 2)}


def insert_runs(database: Database, depth: int, owners: int) -> None:
    with database.session() as session:
        start = now(session) - timedelta(days=30)
    common = {"kind": "validate", "spec": {"dataset": "sample"}, "created_at": start}
    common |= dict.fromkeys(("body_hash", "spec_hash"), "")
    for first in range(0, depth, ROWS_AT_ONCE):
        rows = [
            {**common, "id": f"run_{number:09d}", "owner": f"owner-{number % owners}", "priority": number % 3,
             "queued_at": start + timedelta(seconds=number), "ready_at": start}
            for number in range(first, min(depth, first + ROWS_AT_ONCE))
        ]  # fmt: skip
        with database.session() as session:
            session.execute(insert(Run), rows)
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("ANALYZE run"))


def _seconds_of_claim(database: Database) -> float:
    began = time.perf_counter()
    with database.session() as session:
        claim = queue.claim_next(session, "worker-1")
    seconds = time.perf_counter() - began
    if claim is None:
        raise UserError(
            "the queue is empty; more runs must be queued than are claimed", code="bad_option", field="runs"
        )
    return seconds


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
        return [ClaimLog(**json.loads(text)) for text in outputs], time.perf_counter() - began
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
        with database.session() as session:
            begin_attempt(session, claim, encoder_id=None, from_scratch=True)
        complete_run(database, claim, RunSucceeded({}), home / "runs" / claim.run_id, home, 0.0)

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
