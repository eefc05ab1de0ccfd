"""Invariants at the end of a trial, checked from outside: one line for each violation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

from lcl_core.db.states import ALLOWED, State
from tests.chaos.activity_log import ActivitySpan
from tests.chaos.clients import Submission
from tests.chaos.state_history import StateChange
from tests.chaos.workload import Role

Json = dict[str, Any]
INITIAL_STATES = (State.QUEUED.value, State.WAITING.value)


@dataclass(frozen=True)
class ExpectedTraining:
    """What a run must have learnt: the lines of its steps 1, 2, 3 …, and the hash of its encoder."""

    lines: Sequence[Any]
    digest: str


@dataclass
class Observations:
    """What was found.

    Attributes:
        runs: rows, by id.
        curves: (step, line) of each run, in the order of the database.
        models: what each order's run must have learnt, by the order's number.
        encoders: rows, each with ``found``: the hash of the file that lies there, or None.
        left: commands of processes that outlived the service.
        grace: seconds for which a second process may be seen that has yet to find out that it may not work.
    """

    placed: Sequence[Submission]
    runs: Mapping[str, Json]
    stories: Mapping[str, Sequence[StateChange]]
    lives: Sequence[ActivitySpan]
    curves: Mapping[str, Sequence[tuple[int, Any]]]
    models: Mapping[int, ExpectedTraining]
    encoders: Sequence[Json]
    left: Sequence[str] = ()
    complaints: Sequence[str] = ()
    grace: float = 0.0


def lost_or_doubled(facts: Observations) -> Iterator[str]:
    """Every accepted order is there exactly once, under the id that was answered, and nothing else is."""
    keys = Counter(run["idempotency_key"] for run in facts.runs.values())
    for placed in facts.placed:
        run = facts.runs.get(placed.run.result())
        if run is None or run["idempotency_key"] != placed.order.key:
            yield f"{placed.order.key}: run {placed.run.result()} is lost"
        if keys[placed.order.key] != 1:
            yield f"{placed.order.key}: there are {keys[placed.order.key]} runs of it"
    for key in keys.keys() - {placed.order.key for placed in facts.placed}:
        yield f"{key}: nobody ordered this run"


def wrong_ends(facts: Observations) -> Iterator[str]:
    """Every run ends as it should."""
    for placed in facts.placed:
        run = facts.runs.get(placed.run.result())
        if run is None:
            continue
        before = facts.runs.get(placed.after or "")
        expected = {State.SUCCEEDED.value}
        if placed.order.role is Role.CANCELLED:
            # it may have been over before the cancel reached it
            expected.add(State.CANCELLED.value)
        if before is not None and before["state"] == State.CANCELLED:
            expected = {State.CANCELLED.value}
        if run["state"] not in expected:
            yield f"{run['id']} ({placed.order.role}) is {run['state']}: {run['reason']}"
        states = {entry.new for entry in facts.stories.get(run["id"], ())}
        if placed.cancelled and not states & {State.CANCELLING.value, State.CANCELLED.value}:
            yield f"{run['id']}: its cancel was accepted and forgotten"


def twice_at_once(facts: Observations) -> Iterator[str]:
    """No two processes were at work on one run at the same time."""
    for run in sorted({life.run for life in facts.lives}):
        own = sorted((life for life in facts.lives if life.run == run), key=lambda life: life.began)
        for earlier, later in combinations(own, 2):
            overlap = min(earlier.seen, later.seen) - later.began
            if overlap > facts.grace:
                yield f"{run}: processes {earlier.pid} and {later.pid} were both at work for {overlap:.2f} s"


def illegal_moves(facts: Observations) -> Iterator[str]:
    """Every state follows from the one before, as the state machine allows, and the last one is the row's."""
    for run, story in facts.stories.items():
        if story[0].old is not None or story[0].new not in INITIAL_STATES:
            yield f"{run}: begins with {story[0].old} → {story[0].new}"
        for earlier, later in pairwise(story):
            if later.old != earlier.new:
                yield f"{run}: was {earlier.new}, and then {later.old} → {later.new}"
        for entry in story[1:]:
            there = entry.old is not None and entry.new is not None  # neither made again nor deleted
            if not there or (entry.old != entry.new and entry.new not in ALLOWED[State(entry.old)]):
                yield f"{run}: {entry.old} → {entry.new} is not allowed"
        if run in facts.runs and story[-1].new != facts.runs[run]["state"]:
            yield f"{run}: its story ends with {story[-1].new}, its row says {facts.runs[run]['state']}"
    for run in facts.runs.keys() - facts.stories.keys():
        yield f"{run}: has no story"


def returned_leases(facts: Observations) -> Iterator[str]:
    """A token that was taken away never holds the run again."""
    for run, story in facts.stories.items():
        tokens = [entry.new_token for entry in story if entry.new_token != entry.old_token and entry.new_token]
        for token, count in Counter(tokens).items():
            if count > 1:
                yield f"{run}: the lease {token} was given {count} times"


def early_dependents(facts: Observations, order_of: Mapping[str, Sequence[int]]) -> Iterator[str]:
    """Who comes after another run does not begin before that one's success.

    Args:
        order_of: for ``"RUN STATE"``, the places in the whole ledger at which RUN came to be STATE.
    """
    for placed in facts.placed:
        begins = order_of.get(f"{placed.run.result()} {State.RUNNING}", ())
        if placed.after is None or not begins:
            continue
        successes = order_of.get(f"{placed.after} {State.SUCCEEDED}", ())
        if not successes or successes[0] > begins[0]:
            yield f"{placed.run.result()}: began before {placed.after} had succeeded"


def wrong_curves(facts: Observations) -> Iterator[str]:
    """Every curve is the undisturbed one, each step once; that of a run that was cancelled, its beginning."""
    for placed in facts.placed:
        run = facts.runs.get(placed.run.result())
        if run is None:
            continue
        found, model = facts.curves.get(run["id"], ()), facts.models[placed.order.number]
        steps = [step for step, _ in found]
        whole = run["state"] == State.SUCCEEDED
        if steps != list(range(1, (len(model.lines) if whole else len(steps)) + 1)):
            yield f"{run['id']} ({run['state']}): its steps are {steps}"
            continue
        bent = [step for step, line in found if line != model.lines[step - 1]]
        if bent:
            yield f"{run['id']}: its curve leaves the undisturbed one at step {bent[0]}"


def bad_encoders(facts: Observations) -> Iterator[str]:
    """Every success has one encoder, whose file is the undisturbed one; nothing else has any."""
    by_run = {encoder["run_id"]: encoder for encoder in facts.encoders}
    if len(by_run) != len(facts.encoders):
        yield f"{len(facts.encoders)} encoders of {len(by_run)} runs"
    for placed in facts.placed:
        run = facts.runs.get(placed.run.result())
        if run is None:
            continue
        encoder, digest = by_run.pop(run["id"], None), facts.models[placed.order.number].digest
        if (encoder is not None) != (run["state"] == State.SUCCEEDED):
            yield f"{run['id']}: is {run['state']}, encoder {encoder and encoder['id']}"
        if encoder is not None and {encoder["hash"], encoder["found"]} != {digest}:
            yield f"{encoder['id']}: hash {encoder['hash']}, on disk {encoder['found']}, undisturbed {digest}"
    for run_id in by_run:
        yield f"{by_run[run_id]['id']}: an encoder of nobody's order"


def check_invariants(facts: Observations) -> dict[str, list[str]]:
    """The violations, by what they violate."""
    order_of: dict[str, list[int]] = {}
    for story in facts.stories.values():
        for entry in story:
            order_of.setdefault(f"{entry.run} {entry.new}", []).append(entry.place)
    return {
        "lost_or_doubled": list(lost_or_doubled(facts)),
        "wrong_ends": list(wrong_ends(facts)),
        "twice_at_once": list(twice_at_once(facts)),
        "illegal_moves": list(illegal_moves(facts)),
        "returned_leases": list(returned_leases(facts)),
        "impatient_followers": list(early_dependents(facts, order_of)),
        "bent_curves": list(wrong_curves(facts)),
        "bad_encoders": list(bad_encoders(facts)),
        "left_processes": list(facts.left),
        "bad_answers": list(facts.complaints),
    }
