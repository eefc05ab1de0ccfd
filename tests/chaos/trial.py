"""A trial: planned runs and faults at the same time, then recovery, then observations."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any, Protocol

from api.client import Client
from tests.chaos.activity_log import ActivitySpan
from tests.chaos.clients import FINAL, RetryingClients
from tests.chaos.fault_plan import Fault
from tests.chaos.invariants import Observations
from tests.chaos.observations import RUNS, observe, parsed
from tests.chaos.state_history import statements
from tests.chaos.workload import PlannedRun

Json = dict[str, Any]
FIND_SECONDS = 30.0  # for which a fault looks for something to hit
RECOVERY_SECONDS = 600.0  # in which everything must come to its end


class FaultTarget(Protocol):
    """A running service that things can be done to."""

    @property
    def dialect(self) -> str: ...
    def client(self) -> Client:
        """One that asks once."""

    def tend(self, seconds: float, until: Callable[[], bool] = ...) -> bool:
        """Start again what is due for so long, or until something is so; returns whether it is."""

    def heal(self) -> None:
        """Bring everything back now, and wait until it answers."""

    def inject(self, fault: Fault) -> bool: ...
    def execute(self, statement: str) -> None: ...
    def rows(self, query: str) -> list[Json]: ...
    def spans(self) -> list[ActivitySpan]: ...
    def digest_at(self, path: str) -> str | None: ...


def run_trial(
    target: FaultTarget, faults: Sequence[Fault], planned: Sequence[PlannedRun], real: Mapping[str, Any] | None
) -> tuple[Observations, Json]:
    """What is found when all is over, and figures about it.

    Args:
        real: the spec of the orders for the product's own pre-training; one of it is run in peace before.
    """
    for statement in statements(target.dialect):
        target.execute(statement)
    with target.client() as client, closing(RetryingClients(client)) as clients:
        reference = None if real is None else _reference(target, client, real)
        began = time.monotonic()
        done = _disturb(target, clients, faults, planned)
        disturbed = time.monotonic() - began
        target.heal()
        _await_ends(target, clients)
        observed = observe(
            target.rows, clients.submissions, reference, target.digest_at, target.spans(), clients.bad_responses
        )
    entries = [entry for history in observed.histories.values() for entry in history]
    figures = {
        "faults": done.total(),
        "faults_by_kind": dict(sorted(done.items())),
        "faults_without_target": len(faults) - done.total(),
        "runs": len(observed.runs),
        "runs_by_state": dict(Counter(run["state"] for run in observed.runs.values())),
        "runs_by_role": dict(Counter(submission.planned.role.value for submission in observed.submissions)),
        "attempts": len(observed.spans),
        "transitions": sum(entry.old != entry.new for entry in entries),
        "submissions_repeated": clients.unanswered,
        "seconds_of_faults": round(disturbed, 1),
    }
    return observed, figures


def _disturb(
    target: FaultTarget, clients: RetryingClients, faults: Sequence[Fault], planned: Sequence[PlannedRun]
) -> Counter[str]:
    """Faults and orders side by side, so that the last orders come when some faults are still ahead."""
    done: Counter[str] = Counter()
    waiting = list(planned)
    for number, fault in enumerate(faults, start=1):
        due = len(planned) * number / (0.9 * len(faults))
        while waiting and len(planned) - len(waiting) < due:
            clients.place(waiting.pop(0))
        target.tend(fault.lull)
        if target.tend(FIND_SECONDS, lambda fault=fault: target.inject(fault)):
            done[fault.kind] += 1
    for planned in waiting:
        clients.place(planned)
    return done


def _reference(target: FaultTarget, client: Client, spec: Mapping[str, Any]) -> str:
    """The id of a run that nobody disturbs."""
    run_id = client.submit("pretrain", spec, idempotency_key="chaos-reference")["id"]
    target.tend(RECOVERY_SECONDS, lambda: client.run(run_id)["state"] in FINAL)
    run = client.run(run_id)
    assert run["state"] == "succeeded", f"without any fault the run is {run['state']}: {run['reason']}"
    return run_id


def _await_ends(target: FaultTarget, clients: RetryingClients) -> None:
    """Until every order has been answered and every run has ended, the fragile ones having been resumed."""

    def over() -> bool:
        if not clients.done:
            return False
        runs = [{**run, "reason": parsed(run["reason"])} for run in target.rows(RUNS)]
        return not clients.resume_what_may(runs) and all(run["state"] in FINAL for run in runs)

    target.tend(RECOVERY_SECONDS, over)
