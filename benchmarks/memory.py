"""Resident memory of the api after many requests of all kinds, relative to that after the first ones."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

from benchmarks.load import LoadPlan, run_load
from benchmarks.service import running_api
from lcl_core.common.errors import UserError

OWNERS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--first", type=int, default=1000, help="requests after which memory is measured first")
    parser.add_argument("--requests", type=int, default=100_000, help="and after which it is measured last")
    parser.add_argument("--looks", type=int, default=10, help="at the memory, after the first")
    parser.add_argument("--clients", type=int, default=8)


def main(options: argparse.Namespace) -> None:
    if not 0 < options.first < options.requests or options.looks < 1:
        raise UserError("--first must be above 0 and below --requests, --looks at least 1", code="bad_option")
    report = measure(options.database, options.first, options.requests, options.looks, options.clients)
    print(json.dumps(report, indent=1))


def measure(database: str, first: int, requests: int, samples: int, clients: int) -> dict[str, Any]:
    """Memory at marks evenly between the two, and how it grew. Raises: UserError when the service or clients fail."""
    marks = [first + (requests - first) * sample // samples for sample in range(samples + 1)]
    with running_api(database) as api:
        plan = LoadPlan(api.url, "mixed", api.keys(OWNERS), clients, first)
        resident, wrong, done, seconds = list[int](), dict[str, int](), 0, 0.0
        for mark in marks:
            result = run_load(replace(plan, requests=mark - done))
            done, seconds = mark, seconds + result.seconds
            wrong |= {what: wrong.get(what, 0) + times for what, times in result.wrong.items()}
            resident.append(api.resident_bytes())
    return {
        "database": database,
        "requests": done,
        "requests_per_s": round(done / seconds, 1),
        "wrong": wrong,
        "resident_mib": {mark: round(size / 2**20, 1) for mark, size in zip(marks, resident, strict=True)},
        "growth": round(resident[-1] / resident[0], 3),
    }
