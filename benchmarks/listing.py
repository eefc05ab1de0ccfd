"""Latency of a page of runs in a large table, compared with a small one.

Two services run side by side and are requested in turn, so that other load on the machine affects both. Pages are
compared only when both hold equally many runs. The rows are inserted without a request for each.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from sqlalchemy import insert, select, text

from benchmarks.load import percentile_ms
from benchmarks.service import RunningApi, running_api
from lcl_core.common.errors import UserError
from lcl_core.db.models import Run, RunTag, new_id
from lcl_core.db.session import Database
from lcl_core.jobs import JOBS
from lcl_core.specs.parsing import parse_spec, spec_hash

ROWS_PER_INSERT = 2000
STATES = ("succeeded",) * 12 + ("failed",) * 4 + ("cancelled",) * 2 + ("queued", "running")
SPECS: dict[str, dict[str, Any]] = {
    "pretrain": {"preset": "sample"},
    "evaluate": {"encoder": "base"},
    "index": {"encoder": "base", "collection": "all"},
    "validate": {"dataset": "sample"},
}
COMMON_TAG, RARE_TAG = "nightly", "paper"  # tags of every third run and of every thousandth


def insert_runs(database: Database, rows: int, owners: list[str], seed: int = 0) -> None:
    """Add ``rows`` runs of these owners in all states and kinds, the newest last."""
    dice = random.Random(seed)  # noqa: S311 - no secret
    specs = {kind: parse_spec(kind, given) for kind, given in SPECS.items()}
    said = {kind: (spec.model_dump(mode="json"), spec_hash(kind, spec)) for kind, spec in specs.items()}
    moment = datetime.now(UTC) - timedelta(days=300)
    for start in range(0, rows, ROWS_PER_INSERT):
        runs: list[dict[str, Any]] = []
        tags: list[dict[str, str]] = []
        for number in range(start, min(start + ROWS_PER_INSERT, rows)):
            run = _run_row(dice, said, owners, moment + timedelta(seconds=number))
            runs.append(run)
            tags += [{"run_id": run["id"], "tag": tag, "owner": run["owner"]} for tag in _tags(number)]
        with database.session() as session:
            session.execute(insert(Run), runs)
            session.execute(insert(RunTag), tags)
    if database.engine.dialect.name == "postgresql":  # its autovacuum would come to it within a minute
        with database.session() as session:
            session.execute(text("ANALYZE"))


def _tags(number: int) -> list[str]:
    return [COMMON_TAG] * (number % 3 == 0) + [RARE_TAG] * (number % 1000 == 999)


def _run_row(
    dice: random.Random, said: dict[str, tuple[dict[str, Any], str]], owners: list[str], moment: datetime
) -> dict[str, Any]:
    kind, state = dice.choice(list(SPECS)), dice.choice(STATES)
    spec, digest = said[kind]
    ended = state in ("succeeded", "failed", "cancelled")
    return {
        "id": new_id("run"),
        "kind": kind,
        "name": f"run {moment:%H:%M:%S}",
        "spec": spec,
        "spec_hash": digest,
        "owner": dice.choice(owners),
        "body_hash": digest,
        "state": state,
        "reason": {"code": "crash", "message": "it fell over"} if state == "failed" else None,
        "progress": None if state == "queued" else {"step": 100, "loss": 2.5, "images_per_s": 40.0},
        "result": {"rows": [{"metric": "IR@5", "value": 0.2}] * 20} if state == "succeeded" else None,
        "resource": JOBS[kind].resource,
        **dict.fromkeys(("created_at", "queued_at", "ready_at"), moment),
        "started_at": None if state == "queued" else moment,
        "finished_at": moment if ended else None,
    }


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
    "common tag": {"tag": COMMON_TAG},
    "rare tag": {"tag": RARE_TAG},
    "rare tag and state": {"tag": RARE_TAG, "state": "cancelled"},
}


@dataclass(frozen=True)
class _SeededService:
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
        shelves = _seed_service(large, many), _seed_service(small, few)
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


def _seed_service(api: RunningApi, rows: int) -> _SeededService:
    owners = [f"owner-{number}" for number in range(OWNERS)]
    key, *_ = api.keys(OWNERS)
    insert_runs(api.database, rows, owners)
    with api.database.reading() as session:
        middle = session.scalars(select(Run.id).order_by(Run.id).offset(rows // 2).limit(1)).one()
    return _SeededService(api, {"admin": api.key, "owner": key}, middle)


def _compare(
    shelves: tuple[_SeededService, _SeededService], who: str, query: dict[str, str], page: str, times: int
) -> dict[str, Any]:
    """p95 in milliseconds where there are many rows and few, runs on the page, and the one p95 by the other."""
    latencies: tuple[list[float], list[float]] = ([], [])
    lengths = [0, 0]
    with httpx.Client(timeout=60, trust_env=False) as client:
        for _ in range(times + WARM_UP):
            for side, shelf in enumerate(shelves):
                cursor = {"cursor": shelf.middle} if page == "later" else {}
                seconds, lengths[side] = _timed_request(client, shelf, who, {**query, **cursor, "limit": LIMIT})
                latencies[side].append(seconds)
    many, few = (percentile_ms(found[WARM_UP:], 95) for found in latencies)
    return {"p95_ms": [many, few], "runs": lengths, "ratio": round(many / few, 2) if len(set(lengths)) == 1 else None}


def _timed_request(client: httpx.Client, shelf: _SeededService, who: str, query: dict[str, str]) -> tuple[float, int]:
    """Seconds, and how many runs came."""
    headers, began = {"Authorization": f"Bearer {shelf.keys[who]}"}, time.perf_counter()
    answer = client.get(f"{shelf.api.url}/v1/runs", params=query, headers=headers)
    seconds = time.perf_counter() - began
    answer.raise_for_status()
    return seconds, len(answer.json()["items"])
