"""Very many runs at once, as a long life of the service leaves them: put down without a request for each."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import insert, text

from lcl_core.kinds import RESOURCE_CLASS
from lcl_core.runs.database import Database
from lcl_core.runs.ids import new_id
from lcl_core.runs.tables import Run, RunTag
from lcl_core.specs import parse_spec, spec_hash

AT_ONCE = 2000
STATES = ("succeeded",) * 12 + ("failed",) * 4 + ("cancelled",) * 2 + ("queued", "running")
SPECS: dict[str, dict[str, Any]] = {
    "pretrain": {"preset": "sample"},
    "evaluate": {"encoder": "base"},
    "index": {"encoder": "base", "collection": "all"},
    "validate": {"dataset": "sample"},
}
COMMON, RARE = "nightly", "paper"  # tags of every third run and of every thousandth


def fill(database: Database, rows: int, owners: list[str], seed: int = 0) -> None:
    """Add ``rows`` runs of these owners in all states and kinds, the newest last."""
    dice = random.Random(seed)  # noqa: S311 - no secret
    specs = {kind: parse_spec(kind, given) for kind, given in SPECS.items()}
    said = {kind: (spec.model_dump(mode="json"), spec_hash(kind, spec)) for kind, spec in specs.items()}
    moment = datetime.now(UTC) - timedelta(days=300)
    for start in range(0, rows, AT_ONCE):
        runs: list[dict[str, Any]] = []
        tags: list[dict[str, str]] = []
        for number in range(start, min(start + AT_ONCE, rows)):
            run = _run(dice, said, owners, moment + timedelta(seconds=number))
            runs.append(run)
            tags += [{"run_id": run["id"], "tag": tag, "owner": run["owner"]} for tag in _tags(number)]
        with database.session() as session:
            session.execute(insert(Run), runs)
            session.execute(insert(RunTag), tags)
    if database.engine.dialect.name == "postgresql":  # its autovacuum would come to it within a minute
        with database.session() as session:
            session.execute(text("ANALYZE"))


def _tags(number: int) -> list[str]:
    return [COMMON] * (number % 3 == 0) + [RARE] * (number % 1000 == 999)


def _run(
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
        "resource": RESOURCE_CLASS[kind],
        **dict.fromkeys(("created_at", "queued_at", "ready_at"), moment),
        "started_at": None if state == "queued" else moment,
        "finished_at": moment if ended else None,
    }
