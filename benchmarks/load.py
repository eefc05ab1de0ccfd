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
    """What to ask, of whom, how often.

    Attributes:
        traffic: a name in ``benchmarks.traffic``.
        keys: API keys, spread over the clients.
        requests: that are counted; before them come ``warm_up`` that are not.
        rate: requests a second of all clients together; None: each asks again as soon as it is answered.
    """

    url: str
    traffic: str
    keys: list[str]
    clients: int
    requests: int
    warm_up: int = 0
    rate: float | None = None


@dataclass(frozen=True)
class LoadResult:
    """What came of a plan.

    Attributes:
        seconds: from when counting began to the last answer.
        latencies: of the counted requests, seconds each.
        wrong: answers that were not the expected ones, counted by what they were.
    """

    seconds: float
    latencies: list[float]
    wrong: dict[str, int]


def run_load(plan: LoadPlan) -> LoadResult:
    """Carry the plan out in another process. Raises: UserError ``clients_failed`` with its last words."""
    command = [sys.executable, "-m", "benchmarks.load"]
    done = subprocess.run(
        command, input=json.dumps(asdict(plan)), capture_output=True, text=True, cwd=PROJECT, check=False
    )
    if done.returncode:
        raise UserError(f"the clients failed:\n{done.stderr[-2000:]}", code="clients_failed")
    return LoadResult(**json.loads(done.stdout))


def _main() -> None:
    from benchmarks.load_generator import generate_load

    print(json.dumps(asdict(generate_load(LoadPlan(**json.load(sys.stdin))))))


if __name__ == "__main__":
    _main()


def percentile_ms(latencies: Sequence[float], percent: float) -> float:
    """The latency (seconds each) below which so many percent of them lie, in milliseconds."""
    return round(float(np.percentile(latencies, percent)) * 1000, 2)


def summarize_load(came: LoadResult, what: str) -> dict[str, Any]:
    """What a load came to: ``{what}_per_s``, latencies in milliseconds, and the wrong answers."""
    return {
        f"{what}_per_s": round(len(came.latencies) / came.seconds, 2),
        "p50_ms": percentile_ms(came.latencies, 50),
        "p99_ms": percentile_ms(came.latencies, 99),
        "worst_ms": percentile_ms(came.latencies, 100),
        "wrong": came.wrong,
    }
