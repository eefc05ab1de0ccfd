"""The states of a run and every transition that is allowed between them (docs/runs.md draws and explains them).

waiting ──► queued ──► running ──► succeeded | failed | cancelled
   ▲ │       ▲ │ ▲        │  │
   │ │       │ │ └────────┘  ├──► cancelling ──► cancelled | succeeded | failed
   │ ▼       │ ▼             │        ▲
   paused ◄──┴─┴─ pausing ◄──┘ ───────┘
"""

from __future__ import annotations

from enum import StrEnum

from lcl_core.common.errors import UserError


class State(StrEnum):
    WAITING = "waiting"  # for runs that it comes after
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
    # back to queued: the lease was lost, or the worker that held it is leaving
    State.RUNNING: frozenset(
        {State.SUCCEEDED, State.FAILED, State.CANCELLED, State.CANCELLING, State.PAUSING, State.QUEUED},
    ),
    # a run may finish before the pause or the cancel reaches it
    State.PAUSING: frozenset({State.PAUSED, State.CANCELLING, State.SUCCEEDED, State.FAILED}),
    State.PAUSED: frozenset({State.QUEUED, State.WAITING, State.CANCELLED}),
    State.CANCELLING: frozenset({State.CANCELLED, State.SUCCEEDED, State.FAILED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset({State.QUEUED, State.WAITING}),
    State.CANCELLED: frozenset({State.QUEUED, State.WAITING}),
}
LEASED = frozenset({State.RUNNING, State.PAUSING, State.CANCELLING})  # some worker holds the run
FINISHED = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})
# what would be done to a run that is to go into a state, where the state's own name does not say it
PARTICIPLES = {
    State.QUEUED: "queued again",
    State.RUNNING: "started",
    State.PAUSING: "paused",
    State.CANCELLING: "cancelled",
    State.WAITING: "made to wait",
    State.SUCCEEDED: "finished",
}
UNCLAIMED = frozenset(State) - LEASED - FINISHED  # nobody holds it yet, or any more


class ForbiddenTransition(UserError):
    """The state of the run (or of the study) does not allow what was asked."""

    def __init__(self, run_id: str, state: str, wanted: str, noun: str = "run") -> None:
        super().__init__(f"{noun} {run_id} is {state} and cannot be {wanted}", code="forbidden_transition")
        self.run_id = run_id
        self.state = state
        self.wanted = wanted


def check_transition(run_id: str, source: str, target: State) -> None:
    """Raises: ForbiddenTransition unless ``source`` may become ``target``."""
    if target not in ALLOWED[State(source)]:
        raise ForbiddenTransition(run_id, source, PARTICIPLES.get(target, target.value))
