"""Each verdict finds what it is there to find, and nothing in a trial in which all went well."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace

import pytest

from tests.chaos.activity_log import ActivitySpan
from tests.chaos.clients import Submission
from tests.chaos.invariants import ExpectedTraining, Observations, check_invariants
from tests.chaos.state_history import StateChange
from tests.chaos.workload import PlannedRun, Role

LINES = [{"step": step, "loss": 1 / step} for step in (1, 2, 3)]
STORY = (
    StateChange(1, "first", None, "queued", None, None),
    StateChange(2, "first", "queued", "running", None, "a"),
    StateChange(3, "first", "running", "queued", "a", None),
    StateChange(4, "first", "queued", "running", None, "b"),
    StateChange(5, "first", "running", "succeeded", "b", None),
)
SECOND = (
    StateChange(6, "second", None, "waiting", None, None),
    StateChange(7, "second", "waiting", "cancelled", None, None),
)


def submission(number: int, run_id: str, role: Role, **observed: object) -> Submission:
    run: Future[str] = Future()
    run.set_result(run_id)
    planned = PlannedRun(number, role, f"key-{number}", {}, 0, 3, None, 0.0)
    return Submission(planned, run, **observed)  # type: ignore[arg-type]


@pytest.fixture
def observed() -> Observations:
    """One run that lost a worker and succeeded, and one that was cancelled in time."""
    return Observations(
        submissions=[
            submission(0, "first", Role.PLAIN),
            submission(1, "second", Role.CANCELLED, after="first", cancelled=True),
        ],
        runs={
            "first": {"id": "first", "state": "succeeded", "reason": None, "idempotency_key": "key-0"},
            "second": {"id": "second", "state": "cancelled", "reason": None, "idempotency_key": "key-1"},
        },
        histories={"first": STORY, "second": SECOND},
        spans=[ActivitySpan("first", 7, 1.0, 2.0), ActivitySpan("first", 8, 2.5, 3.0)],
        curves={"first": [(line["step"], line) for line in LINES]},
        models={number: ExpectedTraining(LINES, "digest") for number in (0, 1)},
        encoders=[{"id": "encoder", "run_id": "first", "hash": "digest", "found": "digest"}],
    )


def run_gone(observed: Observations) -> None:
    observed.runs = {"second": observed.runs["second"]}


def run_doubled(observed: Observations) -> None:
    observed.runs = {**observed.runs, "third": {**observed.runs["first"], "id": "third"}}


def run_failed(observed: Observations) -> None:
    observed.runs["first"]["state"] = "failed"


def cancel_forgotten(observed: Observations) -> None:
    observed.submissions[0].cancelled = True


def both_at_work(observed: Observations) -> None:
    observed.spans = [ActivitySpan("first", 7, 1.0, 2.6), ActivitySpan("first", 8, 2.5, 3.0)]


def back_from_the_end(observed: Observations) -> None:
    observed.histories = {
        **observed.histories,
        "first": (*STORY, StateChange(8, "first", "succeeded", "running", None, "c")),
    }


def state_skipped(observed: Observations) -> None:
    observed.histories = {**observed.histories, "first": (*STORY[:2], *STORY[3:])}


def run_deleted(observed: Observations) -> None:
    observed.histories = {
        **observed.histories,
        "second": (*SECOND, StateChange(8, "second", "cancelled", None, None, None)),
    }


def lease_returned(observed: Observations) -> None:
    observed.histories = {**observed.histories, "first": (*STORY[:3], replace(STORY[3], new_token="a"), STORY[4])}


def follower_in_front(observed: Observations) -> None:
    early = StateChange(0, "second", "queued", "running", None, "z")
    observed.histories = {**observed.histories, "second": (early, *SECOND)}


def step_missing(observed: Observations) -> None:
    observed.curves = {"first": [(1, LINES[0]), (3, LINES[2])]}


def step_twice(observed: Observations) -> None:
    observed.curves = {"first": [(line["step"], line) for line in (LINES[0], *LINES)]}


def curve_bent(observed: Observations) -> None:
    observed.curves = {"first": [(1, LINES[0]), (2, {"step": 2, "loss": 0.5 + 1e-16 + 1e-15}), (3, LINES[2])]}


def end_missing(observed: Observations) -> None:
    observed.curves = {"first": [(line["step"], line) for line in LINES[:2]]}


def encoder_half_written(observed: Observations) -> None:
    observed.encoders[0]["found"] = None


def encoder_of_a_cancelled_run(observed: Observations) -> None:
    observed.encoders = [*observed.encoders, {"id": "other", "run_id": "second", "hash": "digest", "found": "digest"}]


def encoder_forgotten(observed: Observations) -> None:
    observed.encoders = []


def process_left(observed: Observations) -> None:
    observed.left = ["python -m tests.chaos.toy_job"]


def test_nothing_is_found_where_nothing_is_wrong(observed: Observations) -> None:
    assert not any(check_invariants(observed).values())


@pytest.mark.parametrize(
    ("harm", "violations"),
    [
        (run_gone, "lost_or_doubled"),
        (run_doubled, "lost_or_doubled"),
        (run_failed, "wrong_ends"),
        (cancel_forgotten, "wrong_ends"),
        (both_at_work, "twice_at_once"),
        (back_from_the_end, "illegal_moves"),
        (state_skipped, "illegal_moves"),
        (run_deleted, "illegal_moves"),
        (lease_returned, "returned_leases"),
        (follower_in_front, "impatient_followers"),
        (step_missing, "bent_curves"),
        (step_twice, "bent_curves"),
        (curve_bent, "bent_curves"),
        (end_missing, "bent_curves"),
        (encoder_half_written, "bad_encoders"),
        (encoder_of_a_cancelled_run, "bad_encoders"),
        (encoder_forgotten, "bad_encoders"),
        (process_left, "left_processes"),
    ],
)
def test_what_is_wrong_is_found(observed: Observations, harm: Callable[[Observations], None], violations: str) -> None:
    harm(observed)
    assert check_invariants(observed)[violations]
