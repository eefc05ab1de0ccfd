"""Observations of a trial, read from the database and the home folder without the product's code."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from tests.chaos import toy_training
from tests.chaos.activity_log import ActivitySpan
from tests.chaos.clients import Submission
from tests.chaos.invariants import ExpectedTraining, Observations
from tests.chaos.state_history import Rows, read_history
from tests.chaos.toy_job import TOY_SEEDS

Json = dict[str, Any]
RUNS = "SELECT id, state, reason, idempotency_key, attempt FROM run ORDER BY id"
METRICS = 'SELECT run_id, step, "values" FROM metric ORDER BY run_id, id'
ENCODERS = "SELECT id, run_id, hash, path FROM encoder WHERE run_id IS NOT NULL ORDER BY id"
# what a clock or the machine has a part in
VOLATILE = {
    "time",
    "seconds_left",
    "images_per_s",
    "tokens_per_s",
    "mfu",
    "data_wait",
    "memory_gib",
    "rss_gib",
    "cpu_cores",
}


def observe(
    rows: Rows,
    submissions: Sequence[Submission],
    reference: str | None,
    digest_at: Callable[[str], str | None],
    spans: Sequence[ActivitySpan],
    bad_responses: Sequence[str],
) -> Observations:
    """Everything but who outlived the service.

    Args:
        reference: the undisturbed run of the product's own pre-training, if there was one.
        digest_at: the hash of the weights at an encoder's path, None when there are none.
    """
    curves = read_curves(rows)
    encoders = [{**row, "found": digest_at(row["path"])} for row in rows(ENCODERS)]
    histories = read_history(rows)
    real = None
    if reference is not None:
        histories.pop(reference, None)
        made = next(row for row in encoders if row["run_id"] == reference)
        encoders.remove(made)
        real = ExpectedTraining([line for _, line in curves[reference]], made["hash"])
    runs = {row["id"]: {**row, "reason": parsed(row["reason"])} for row in rows(RUNS) if row["id"] != reference}
    return Observations(
        submissions=submissions,
        runs=runs,
        histories=histories,
        spans=[span for span in spans if span.run != reference],
        curves=curves,
        models={each.planned.number: expected_training(each, real) for each in submissions},
        encoders=encoders,
        bad_responses=bad_responses,
    )


def expected_training(submission: Submission, real: ExpectedTraining | None) -> ExpectedTraining:
    if submission.planned.spec["seed"] < TOY_SEEDS:
        assert real is not None, "the product's own pre-training was not run without disturbance"
        return real
    losses, digest = toy_training.expected_curve(submission.planned.spec["seed"], submission.planned.spec["steps"])
    lines = [{"step": at, "total_steps": len(losses), "loss": loss} for at, loss in enumerate(losses, start=1)]
    return ExpectedTraining(lines, digest)


def read_curves(rows: Rows) -> dict[str, list[tuple[int, Json]]]:
    """What each run has learnt, step by step; lines without a loss are about other things."""
    curves: dict[str, list[tuple[int, Json]]] = defaultdict(list)
    for row in rows(METRICS):
        line = parsed(row["values"])
        if "loss" in line:
            kept = {name: value for name, value in line.items() if name not in VOLATILE}
            curves[row["run_id"]].append((row["step"], kept))
    return {run: sorted(lines, key=lambda each: each[0]) for run, lines in curves.items()}


def parsed(value: Any) -> Any:
    """JSON that SQLite keeps as text."""
    return json.loads(value) if isinstance(value, str) else value
