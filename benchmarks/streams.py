"""Event streams of a few runs with many readers: lag from an event's commit to its arrival, and the api's CPU time.

The runs are at work and their metrics are written here. First nothing happens, then each run has events at a steady
rate. Everything runs on this machine: api, database, readers.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from benchmarks.load import percentile_ms
from benchmarks.service import RunningApi, running_api
from benchmarks.stream_readers import READY, Arrivals, ReaderPlan
from deploy.process import PROJECT
from lcl_core.common.errors import UserError
from lcl_core.db import queue, submit
from lcl_core.db.models import Metric
from lcl_core.specs.parsing import parse_spec

ARRIVAL_SECONDS = 5.0  # after the last event, for readers that lag
# of a real line of training
VALUES = {"loss": 2.345678, "lr": 0.0003, "samples_per_s": 123.4, "grad_norm": 1.0, "seconds": 12.5, "epoch": 0.25}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=4, help="that are followed")
    parser.add_argument("--seconds", type=float, default=20.0, help="without events, and with them")
    parser.add_argument("--events", type=float, default=1.0, help="of each run, a second")


def main(options: argparse.Namespace) -> None:
    report = measure(options.database, options.streams, options.runs, options.seconds, options.events)
    print(json.dumps(report, indent=1))


def measure(database: str, streams: int, runs: int, seconds: float, events: float) -> dict[str, Any]:
    """Raises: UserError ``readers_failed``; other errors when the service does not start."""
    limits = {
        "LCL_STREAMS_AT_ONCE": str(streams + 1),
        "LCL_REQUESTS_AT_ONCE": str(2 * streams + 2),
        "LCL_MAX_CONNECTIONS": str(streams + 100),
    }
    with running_api(database, env=limits) as api:
        followed = [_start_run(api) for _ in range(runs)]
        with _readers(ReaderPlan(api.url, api.key, followed, streams)) as readers:
            idle = _cpu_share(api, lambda: time.sleep(seconds))
            commits: dict[tuple[str, int], float] = {}
            busy = _cpu_share(api, lambda: commits.update(_write_events(api, followed, seconds, events)))
            time.sleep(ARRIVAL_SECONDS)
            arrivals = Arrivals(**json.loads(_finish(readers)))
    lags = [
        moment - commits[run_id, int(step)] for run_id, moments in arrivals.moments.items() for step, moment in moments
    ]
    return {
        "database": database,
        "streams": streams,
        "runs": runs,
        "events": len(commits),
        "arrivals": len(lags),
        "expected": sum(_readers_of(run_id, followed, streams) for run_id, _ in commits),
        "ended": arrivals.ended,
        "lag_p50_ms": percentile_ms(lags, 50),
        "lag_p99_ms": percentile_ms(lags, 99),
        "api_cpu_idle": idle,
        "api_cpu_busy": busy,
    }


def _start_run(api: RunningApi) -> str:
    with api.database.session() as session:
        submit.submit(session, "pretrain", parse_spec("pretrain", {"preset": "sample"}))
    with api.database.session() as session:
        claim = queue.claim_next(session, "worker-1", lease_seconds=3600.0)
    assert claim is not None
    return claim.run_id


def _write_events(api: RunningApi, runs: Sequence[str], seconds: float, rate: float) -> dict[tuple[str, int], float]:
    """Write a metric line of each run, ``rate`` times a second. Returns: {(run, step): moment of the commit}."""
    commits, began = {}, time.monotonic()
    for step in range(1, int(seconds * rate) + 1):
        time.sleep(max(0.0, began + step / rate - time.monotonic()))
        for run_id in runs:
            with api.database.session() as session:
                session.add(Metric(run_id=run_id, step=step, values={"step": step, **VALUES}))
            commits[run_id, step] = time.monotonic()
    return commits


def _cpu_share(api: RunningApi, work: Any) -> float:
    """Processor seconds of the api a second, while ``work`` is done."""
    used, began = api.cpu_seconds(), time.monotonic()
    work()
    return round((api.cpu_seconds() - used) / (time.monotonic() - began), 3)


def _readers_of(run_id: str, runs: Sequence[str], streams: int) -> int:
    return len(range(runs.index(run_id), streams, len(runs)))


@contextmanager
def _readers(plan: ReaderPlan) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benchmarks.stream_readers"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=PROJECT) as readers:
        try:
            assert readers.stdin is not None
            assert readers.stdout is not None
            readers.stdin.write(json.dumps(asdict(plan)) + "\n")
            readers.stdin.flush()
            if readers.stdout.readline().strip() != READY:
                raise UserError("the readers did not start; their error is above", code="readers_failed")
            yield readers
        finally:
            readers.kill()


def _finish(readers: subprocess.Popen[str]) -> str:
    """What the readers report. Raises: UserError ``readers_failed``."""
    report, _ = readers.communicate(timeout=60)
    if readers.returncode:
        raise UserError("the readers failed; their error is above", code="readers_failed")
    return report
