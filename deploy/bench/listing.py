"""Latency of a page of runs when there are very many, compared with when there are few.

Two services stand side by side and are asked in turn, so that whatever else the machine does befalls both. Pages are
compared when both hold equally many runs: a longer one takes longer, however few there are.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from typing import Any

import httpx
from sqlalchemy import select

from deploy.bench.figures import milliseconds
from deploy.bench.filling import COMMON, RARE, fill
from deploy.bench.service import RunningApi, running_api
from lcl_core.errors import UserError
from lcl_core.runs.tables import Run

OWNERS = 10
WARM_UP = 3
LIMIT = "10"  # of a page, so that few runs fill most pages too
FILTERS: dict[str, dict[str, str]] = {
    "all": {},
    "state": {"state": "failed"},
    "waiting for work": {"state": "queued"},
    "no such state": {"state": "paused"},
    "kind": {"kind": "evaluate"},
    "state and kind": {"state": "running", "kind": "index"},
    "state and a kind that is not there": {"state": "succeeded", "kind": "match"},
    "common tag": {"tag": COMMON},
    "rare tag": {"tag": RARE},
    "rare tag and state": {"tag": RARE, "state": "cancelled"},
}


@dataclass(frozen=True)
class _Shelf:
    """One service, its keys by who asks, and an id in the middle of its runs."""

    api: RunningApi
    keys: dict[str, str]
    middle: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--many", type=int, default=100_000, help="rows")
    parser.add_argument("--few", type=int, default=1000, help="rows")
    parser.add_argument("--times", type=int, default=100, help="each page is asked for")


def main(options: argparse.Namespace) -> None:
    if not 2 <= options.few <= options.many:
        raise UserError("--few must be at least 2, and not above --many", code="bad_option")
    print(json.dumps(measure(options.database, options.many, options.few, options.times), indent=1))


def measure(database: str, many: int, few: int, times: int) -> dict[str, Any]:
    """p95 of every page on both services. Raises: UserError when a service does not start."""
    with running_api(database, "many") as large, running_api(database, "few") as small:
        shelves = _shelf(large, many), _shelf(small, few)
        pages = [
            {"asked_by": who, "filter": name, "page": page, **_compare(shelves, who, query, page, times)}
            for who in ("admin", "owner")
            for name, query in FILTERS.items()
            for page in ("first", "later")
        ]
    return {
        "database": database,
        "rows": [many, few],
        "times": times,
        "p95_ms": {"many": max(page["p95_ms"][0] for page in pages), "few": max(page["p95_ms"][1] for page in pages)},
        "worst_ratio": max(page["ratio"] for page in pages if page["ratio"] is not None),
        "pages": pages,
    }


def _shelf(api: RunningApi, rows: int) -> _Shelf:
    owners = [f"owner-{number}" for number in range(OWNERS)]
    key, *_ = api.keys(OWNERS)
    fill(api.database, rows, owners)
    with api.database.reading() as session:
        middle = session.scalars(select(Run.id).order_by(Run.id).offset(rows // 2).limit(1)).one()
    return _Shelf(api, {"admin": api.key, "owner": key}, middle)


def _compare(shelves: tuple[_Shelf, _Shelf], who: str, query: dict[str, str], page: str, times: int) -> dict[str, Any]:
    """p95 in milliseconds where there are many rows and few, runs on the page, and the one p95 by the other."""
    latencies: tuple[list[float], list[float]] = ([], [])
    lengths = [0, 0]
    with httpx.Client(timeout=60, trust_env=False) as client:
        for _ in range(times + WARM_UP):
            for side, shelf in enumerate(shelves):
                cursor = {"cursor": shelf.middle} if page == "later" else {}
                seconds, lengths[side] = _ask(client, shelf, who, {**query, **cursor, "limit": LIMIT})
                latencies[side].append(seconds)
    many, few = (milliseconds(found[WARM_UP:], 95) for found in latencies)
    return {"p95_ms": [many, few], "runs": lengths, "ratio": round(many / few, 2) if len(set(lengths)) == 1 else None}


def _ask(client: httpx.Client, shelf: _Shelf, who: str, query: dict[str, str]) -> tuple[float, int]:
    """Seconds, and how many runs came."""
    headers, began = {"Authorization": f"Bearer {shelf.keys[who]}"}, time.perf_counter()
    answer = client.get(f"{shelf.api.url}/v1/runs", params=query, headers=headers)
    seconds = time.perf_counter() - began
    answer.raise_for_status()
    return seconds, len(answer.json()["items"])
