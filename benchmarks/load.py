"""Load plans and their results. The clients run in another process: locust patches the sockets of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from deploy.process import PROJECT
from lcl_core.common.errors import UserError

Json = dict[str, Any]


@dataclass(frozen=True)
class LoadPlan:
    """Requests to send: to which service, by how many clients, how often."""

    url: str
    traffic: str  # a name in ``TRAFFIC`` of ``benchmarks.load_generator``
    keys: list[str]  # spread over the clients
    clients: int
    requests: int  # that count
    warm_up: int = 0  # requests before them
    rate: float | None = None  # a second, of all clients; None: each sends again after each response


@dataclass(frozen=True)
class LoadResult:
    seconds: float  # from the first counted request to the last response
    latencies: list[float]  # of the counted requests, seconds each
    wrong: dict[str, int]  # unexpected responses by method, path and status


def run_load(plan: LoadPlan) -> LoadResult:
    """Run the plan in another process. Raises: UserError ``clients_failed`` with the end of its standard error."""
    command = [sys.executable, "-m", "benchmarks.load_generator"]
    done = subprocess.run(
        command, input=json.dumps(asdict(plan)), capture_output=True, text=True, cwd=PROJECT, check=False
    )
    if done.returncode:
        raise UserError(f"the clients failed:\n{done.stderr[-2000:]}", code="clients_failed")
    return LoadResult(**json.loads(done.stdout))


def percentile_ms(latencies: Sequence[float], percent: float) -> float:
    """Percentile of ``latencies`` (seconds), in milliseconds."""
    return round(float(np.percentile(latencies, percent)) * 1000, 2)


def summarize_load(result: LoadResult, unit: str) -> dict[str, Any]:
    """``{unit}_per_s``, latencies in milliseconds, and the unexpected responses."""
    return {
        f"{unit}_per_s": round(len(result.latencies) / result.seconds, 2),
        "p50_ms": percentile_ms(result.latencies, 50),
        "p99_ms": percentile_ms(result.latencies, 99),
        "worst_ms": percentile_ms(result.latencies, 100),
        "wrong": result.wrong,
    }
