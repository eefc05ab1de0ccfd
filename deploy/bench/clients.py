"""Clients in a process of their own: locust takes over the sockets of the process in which it is imported.

``python -m deploy.bench.clients`` reads a plan from standard input and writes what came of it to standard output.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Any

from deploy.child import PROJECT
from lcl_core.errors import UserError

Json = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What to ask, of whom, how often.

    Attributes:
        traffic: a name in ``deploy.bench.traffic``.
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
class Came:
    """What came of a plan.

    Attributes:
        seconds: from when counting began to the last answer.
        latencies: of the counted requests, seconds each.
        wrong: answers that were not the expected ones, counted by what they were.
    """

    seconds: float
    latencies: list[float]
    wrong: dict[str, int]


def drive(plan: Plan) -> Came:
    """Carry the plan out in another process. Raises: UserError ``clients_failed`` with its last words."""
    command = [sys.executable, "-m", "deploy.bench.clients"]
    done = subprocess.run(
        command, input=json.dumps(asdict(plan)), capture_output=True, text=True, cwd=PROJECT, check=False
    )
    if done.returncode:
        raise UserError(f"the clients failed:\n{done.stderr[-2000:]}", code="clients_failed")
    return Came(**json.loads(done.stdout))


def _main() -> None:
    from deploy.bench.swarm import swarm

    print(json.dumps(asdict(swarm(Plan(**json.load(sys.stdin))))))


if __name__ == "__main__":
    _main()
