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
    """What was observed.

    Attributes:
        runs: rows, by id.
        curves: (step, line) of each run, in the order of the database.
        models: what each order's run must have learnt, by the order's number.
        encoders: rows, each with ``found``: the hash of the file that lies there, or None.
        left: commands of processes that outlived the service.
        grace: seconds for which a second process may be seen that has yet to find out that it may not work.
    """

    submissions: Sequence[Submission]
    runs: Mapping[str, Json]
    histories: Mapping[str, Sequence[StateChange]]
    spans: Sequence[ActivitySpan]
    curves: Mapping[str, Sequence[tuple[int, Any]]]
    models: Mapping[int, ExpectedTraining]
    encoders: Sequence[Json]
    left: Sequence[str] = ()
    bad_responses: Sequence[str] = ()
    grace: float = 0.0


def lost_or_doubled(observed: Observations) -> Iterator[str]:
    """Every accepted order is there exactly once, under the id that was answered, and nothing else is."""
    keys = Counter(run["idempotency_key"] for run in observed.runs.values())
    for submission in observed.submissions:
        run = observed.runs.get(submission.run.result())
        if run is None or run["idempotency_key"] != submission.planned.key:
            yield f"{submission.planned.key}: run {submission.run.result()} is lost"
        if keys[submission.planned.key] != 1:
            yield f"{submission.planned.key}: there are {keys[submission.planned.key]} runs of it"
    for key in keys.keys() - {submission.planned.key for submission in observed.submissions}:
        yield f"{key}: nobody ordered this run"


def wrong_ends(observed: Observations) -> Iterator[str]:
    """Every run ends as it should."""
    for submission in observed.submissions:
        run = observed.runs.get(submission.run.result())
        if run is None:
            continue
        before = observed.runs.get(submission.after or "")
        expected = {State.SUCCEEDED.value}
        if submission.planned.role is Role.CANCELLED:
            # it may have been over before the cancel reached it
            expected.add(State.CANCELLED.value)
        if before is not None and before["state"] == State.CANCELLED:
            expected = {State.CANCELLED.value}
        if run["state"] not in expected:
            yield f"{run['id']} ({submission.planned.role}) is {run['state']}: {run['reason']}"
        states = {entry.new for entry in observed.histories.get(run["id"], ())}
        if submission.cancelled and not states & {State.CANCELLING.value, State.CANCELLED.value}:
            yield f"{run['id']}: its cancel was accepted and forgotten"


def twice_at_once(observed: Observations) -> Iterator[str]:
    """No two processes were at work on one run at the same time."""
    for run in sorted({span.run for span in observed.spans}):
        own = sorted((span for span in observed.spans if span.run == run), key=lambda span: span.began)
        for earlier, later in combinations(own, 2):
            overlap = min(earlier.seen, later.seen) - later.began
            if overlap > observed.grace:
                yield f"{run}: processes {earlier.pid} and {later.pid} were both at work for {overlap:.2f} s"


def illegal_moves(observed: Observations) -> Iterator[str]:
    """Every state follows from the one before, as the state machine allows, and the last one is the row's."""
    for run, history in observed.histories.items():
        if history[0].old is not None or history[0].new not in INITIAL_STATES:
            yield f"{run}: begins with {history[0].old} → {history[0].new}"
        for earlier, later in pairwise(history):
            if later.old != earlier.new:
                yield f"{run}: was {earlier.new}, and then {later.old} → {later.new}"
        for entry in history[1:]:
            there = entry.old is not None and entry.new is not None  # neither made again nor deleted
            if not there or (entry.old != entry.new and entry.new not in ALLOWED[State(entry.old)]):
                yield f"{run}: {entry.old} → {entry.new} is not allowed"
        if run in observed.runs and history[-1].new != observed.runs[run]["state"]:
            yield f"{run}: its story ends with {history[-1].new}, its row says {observed.runs[run]['state']}"
    for run in observed.runs.keys() - observed.histories.keys():
        yield f"{run}: has no story"


def returned_leases(observed: Observations) -> Iterator[str]:
    """A token that was taken away never holds the run again."""
    for run, history in observed.histories.items():
        tokens = [entry.new_token for entry in history if entry.new_token != entry.old_token and entry.new_token]
        for token, count in Counter(tokens).items():
            if count > 1:
                yield f"{run}: the lease {token} was given {count} times"


def early_dependents(observed: Observations, order_of: Mapping[str, Sequence[int]]) -> Iterator[str]:
    """Who comes after another run does not begin before that one's success.

    Args:
        order_of: for ``"RUN STATE"``, the places in the whole ledger at which RUN came to be STATE.
    """
    for submission in observed.submissions:
        begins = order_of.get(f"{submission.run.result()} {State.RUNNING}", ())
        if submission.after is None or not begins:
            continue
        successes = order_of.get(f"{submission.after} {State.SUCCEEDED}", ())
        if not successes or successes[0] > begins[0]:
            yield f"{submission.run.result()}: began before {submission.after} had succeeded"


def wrong_curves(observed: Observations) -> Iterator[str]:
    """Every curve is the undisturbed one, each step once; that of a run that was cancelled, its beginning."""
    for submission in observed.submissions:
        run = observed.runs.get(submission.run.result())
        if run is None:
            continue
        found, model = observed.curves.get(run["id"], ()), observed.models[submission.planned.number]
        steps = [step for step, _ in found]
        whole = run["state"] == State.SUCCEEDED
        if steps != list(range(1, (len(model.lines) if whole else len(steps)) + 1)):
            yield f"{run['id']} ({run['state']}): its steps are {steps}"
            continue
        bent = [step for step, line in found if line != model.lines[step - 1]]
        if bent:
            yield f"{run['id']}: its curve leaves the undisturbed one at step {bent[0]}"


def bad_encoders(observed: Observations) -> Iterator[str]:
    """Every success has one encoder, whose file is the undisturbed one; nothing else has any."""
    by_run = {encoder["run_id"]: encoder for encoder in observed.encoders}
    if len(by_run) != len(observed.encoders):
        yield f"{len(observed.encoders)} encoders of {len(by_run)} runs"
    for submission in observed.submissions:
        run = observed.runs.get(submission.run.result())
        if run is None:
            continue
        encoder, digest = by_run.pop(run["id"], None), observed.models[submission.planned.number].digest
        if (encoder is not None) != (run["state"] == State.SUCCEEDED):
            yield f"{run['id']}: is {run['state']}, encoder {encoder and encoder['id']}"
        if encoder is not None and {encoder["hash"], encoder["found"]} != {digest}:
            yield f"{encoder['id']}: hash {encoder['hash']}, on disk {encoder['found']}, undisturbed {digest}"
    for run_id in by_run:
        yield f"{by_run[run_id]['id']}: an encoder of nobody's order"


def check_invariants(observed: Observations) -> dict[str, list[str]]:
    """The violations, by what they violate."""
    order_of: dict[str, list[int]] = {}
    for history in observed.histories.values():
        for entry in history:
            order_of.setdefault(f"{entry.run} {entry.new}", []).append(entry.place)
    return {
        "lost_or_doubled": list(lost_or_doubled(observed)),
        "wrong_ends": list(wrong_ends(observed)),
        "twice_at_once": list(twice_at_once(observed)),
        "illegal_moves": list(illegal_moves(observed)),
        "returned_leases": list(returned_leases(observed)),
        "impatient_followers": list(early_dependents(observed, order_of)),
        "bent_curves": list(wrong_curves(observed)),
        "bad_encoders": list(bad_encoders(observed)),
        "left_processes": list(observed.left),
        "bad_answers": list(observed.bad_responses),
    }
