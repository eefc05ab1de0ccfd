"""Submissions a second that one api takes, with what latency: first as fast as the clients can, then at a steady rate.

Everything runs on this machine: api, database, broker and clients.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

from sqlalchemy import func, select

from benchmarks.load import LoadPlan, run_load, summarize_load
from benchmarks.service import RunningApi, process_metric, running_api
from lcl_core.db.models import Run

OWNERS = 8
STEADY = {"postgresql": 150.0, "sqlite": 100.0}  # submissions a second that each should bear


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=4000, help="submissions that are counted, either time")
    parser.add_argument("--warm-up", type=int, default=500, help="before them, not counted")
    parser.add_argument("--rate", type=float, help="submissions a second of the steady load; default: by the database")


def main(options: argparse.Namespace) -> None:
    rate = options.rate or STEADY[options.database]
    print(json.dumps(measure(options.database, options.clients, options.requests, options.warm_up, rate), indent=1))


def measure(database: str, clients: int, requests: int, warm_up: int, rate: float) -> dict[str, Any]:
    """Both loads on one service. Raises: UserError when it does not start or the clients fail."""
    with running_api(database) as api:
        plan = LoadPlan(api.url, "submissions", api.keys(OWNERS), clients, requests, warm_up)
        before = process_metric(api.url, "process_cpu_seconds_total")
        flat_out = run_load(plan)
        used = process_metric(api.url, "process_cpu_seconds_total") - before
        steady = run_load(replace(plan, warm_up=clients, rate=rate))
        return {
            "database": database,
            "clients": clients,
            "flat_out": summarize_load(flat_out, "submissions"),
            "steady": {"offered_per_s": rate, **summarize_load(steady, "submissions")},
            "api_cpu_ms": round(1000 * used / (requests + warm_up), 2),
            "submitted": 2 * requests + warm_up + clients,
            "rows": _rows(api),
        }


def _rows(api: RunningApi) -> int:
    """Runs that are in the database."""
    with api.database.reading() as session:
        return session.scalars(select(func.count()).select_from(Run)).one()
