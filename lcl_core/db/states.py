"""States of a run and the allowed transitions between them; docs/runs.md explains them.

``leases.transition`` is the only writer of the state.

waiting ──► queued ──► running ──► succeeded | failed | cancelled
   ▲ │       ▲ │ ▲        │  │
   │ │       │ │ └────────┘  ├──► cancelling ──► cancelled | succeeded | failed
   │ ▼       │ ▼             │        ▲
   paused ◄──┴─┴─ pausing ◄──┘ ───────┘
"""

from __future__ import annotations

from enum import StrEnum

from lcl_core.common.errors import Conflict


class State(StrEnum):
    WAITING = "waiting"  # for its predecessors
    QUEUED = "queued"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


ALLOWED: dict[State, frozenset[State]] = {
    State.WAITING: frozenset({State.QUEUED, State.PAUSED, State.CANCELLED}),
    State.QUEUED: frozenset({State.RUNNING, State.PAUSED, State.CANCELLED}),
    # to queued: the lease expired, or its worker is shutting down
    State.RUNNING: frozenset(
        {State.SUCCEEDED, State.FAILED, State.CANCELLED, State.CANCELLING, State.PAUSING, State.QUEUED},
    ),
    # a run may finish before the pause or cancel reaches it
    State.PAUSING: frozenset({State.PAUSED, State.CANCELLING, State.SUCCEEDED, State.FAILED}),
    State.PAUSED: frozenset({State.QUEUED, State.WAITING, State.CANCELLED}),
    State.CANCELLING: frozenset({State.CANCELLED, State.SUCCEEDED, State.FAILED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset({State.QUEUED, State.WAITING}),
    State.CANCELLED: frozenset({State.QUEUED, State.WAITING}),
}
LEASED = frozenset({State.RUNNING, State.PAUSING, State.CANCELLING})  # a worker has a lease
FINISHED = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})
# what happens to a run on the way into a state, for error messages; else the name of the state
_PARTICIPLES = {
    State.QUEUED: "queued again",
    State.RUNNING: "started",
    State.PAUSING: "paused",
    State.CANCELLING: "cancelled",
    State.WAITING: "made to wait",
    State.SUCCEEDED: "finished",
}
UNCLAIMED = frozenset(State) - LEASED - FINISHED  # no worker has a lease, and one may still get it


class ForbiddenTransition(Conflict):
    """The state of the run (or study) forbids the action; ``action`` is a participle such as ``cancelled``."""

    def __init__(self, run_id: str, state: str, action: str, noun: str = "run") -> None:
        verb = "has" if state in (State.SUCCEEDED, State.FAILED) else "is"
        super().__init__(f"{noun} {run_id} {verb} {state} and cannot be {action}")
        self.run_id = run_id
        self.state = state
        self.action = action


def check_transition(run_id: str, source: str, target: State) -> None:
    if target not in ALLOWED[State(source)]:
        raise ForbiddenTransition(run_id, source, _PARTICIPLES.get(target, target.value))
