"""Each verdict finds what it is there to find, and nothing in a trial in which all went well."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace

import pytest

from tests.chaos.customers import Placed
from tests.chaos.ledger import Entry
from tests.chaos.orders import Order, Role
from tests.chaos.verdicts import Facts, Model, judge
from tests.chaos.watchbook import Life

LINES = [{"step": step, "loss": 1 / step} for step in (1, 2, 3)]
STORY = (
    Entry(1, "first", None, "queued", None, None),
    Entry(2, "first", "queued", "running", None, "a"),
    Entry(3, "first", "running", "queued", "a", None),
    Entry(4, "first", "queued", "running", None, "b"),
    Entry(5, "first", "running", "succeeded", "b", None),
)
SECOND = (
    Entry(6, "second", None, "waiting", None, None),
    Entry(7, "second", "waiting", "cancelled", None, None),
)


def placed(number: int, run_id: str, role: Role, **facts: object) -> Placed:
    run: Future[str] = Future()
    run.set_result(run_id)
    order = Order(number, role, f"key-{number}", {}, 0, 3, None, 0.0)
    return Placed(order, run, **facts)  # type: ignore[arg-type]


@pytest.fixture
def facts() -> Facts:
    """One run that lost a worker and succeeded, and one that was cancelled in time."""
    return Facts(
        placed=[placed(0, "first", Role.PLAIN), placed(1, "second", Role.CANCELLED, after="first", cancelled=True)],
        runs={
            "first": {"id": "first", "state": "succeeded", "reason": None, "idempotency_key": "key-0"},
            "second": {"id": "second", "state": "cancelled", "reason": None, "idempotency_key": "key-1"},
        },
        stories={"first": STORY, "second": SECOND},
        lives=[Life("first", 7, 1.0, 2.0), Life("first", 8, 2.5, 3.0)],
        curves={"first": [(line["step"], line) for line in LINES]},
        models={number: Model(LINES, "digest") for number in (0, 1)},
        encoders=[{"id": "encoder", "run_id": "first", "hash": "digest", "found": "digest"}],
    )


def run_gone(facts: Facts) -> None:
    facts.runs = {"second": facts.runs["second"]}


def run_doubled(facts: Facts) -> None:
    facts.runs = {**facts.runs, "third": {**facts.runs["first"], "id": "third"}}


def run_failed(facts: Facts) -> None:
    facts.runs["first"]["state"] = "failed"


def cancel_forgotten(facts: Facts) -> None:
    facts.placed[0].cancelled = True


def both_at_work(facts: Facts) -> None:
    facts.lives = [Life("first", 7, 1.0, 2.6), Life("first", 8, 2.5, 3.0)]


def back_from_the_end(facts: Facts) -> None:
    facts.stories = {**facts.stories, "first": (*STORY, Entry(8, "first", "succeeded", "running", None, "c"))}


def state_skipped(facts: Facts) -> None:
    facts.stories = {**facts.stories, "first": (*STORY[:2], *STORY[3:])}


def run_deleted(facts: Facts) -> None:
    facts.stories = {**facts.stories, "second": (*SECOND, Entry(8, "second", "cancelled", None, None, None))}


def lease_returned(facts: Facts) -> None:
    facts.stories = {**facts.stories, "first": (*STORY[:3], replace(STORY[3], new_token="a"), STORY[4])}


def follower_in_front(facts: Facts) -> None:
    early = Entry(0, "second", "queued", "running", None, "z")
    facts.stories = {**facts.stories, "second": (early, *SECOND)}


def step_missing(facts: Facts) -> None:
    facts.curves = {"first": [(1, LINES[0]), (3, LINES[2])]}


def step_twice(facts: Facts) -> None:
    facts.curves = {"first": [(line["step"], line) for line in (LINES[0], *LINES)]}


def curve_bent(facts: Facts) -> None:
    facts.curves = {"first": [(1, LINES[0]), (2, {"step": 2, "loss": 0.5 + 1e-16 + 1e-15}), (3, LINES[2])]}


def end_missing(facts: Facts) -> None:
    facts.curves = {"first": [(line["step"], line) for line in LINES[:2]]}


def encoder_half_written(facts: Facts) -> None:
    facts.encoders[0]["found"] = None


def encoder_of_a_cancelled_run(facts: Facts) -> None:
    facts.encoders = [*facts.encoders, {"id": "other", "run_id": "second", "hash": "digest", "found": "digest"}]


def encoder_forgotten(facts: Facts) -> None:
    facts.encoders = []


def process_left(facts: Facts) -> None:
    facts.left = ["python -m tests.chaos.trainer"]


def test_nothing_is_found_where_nothing_is_wrong(facts: Facts) -> None:
    assert not any(judge(facts).values())


@pytest.mark.parametrize(
    ("harm", "verdict"),
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
def test_what_is_wrong_is_found(facts: Facts, harm: Callable[[Facts], None], verdict: str) -> None:
    harm(facts)
    assert judge(facts)[verdict]
