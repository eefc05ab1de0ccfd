"""The states of a run and every transition that is allowed between them.

queued ──► running ──► succeeded | failed | cancelled
  │ ▲        │  │
  │ └────────┘  └──► cancelling ──► cancelled | succeeded | failed
  └──► cancelled         (a cancelled or failed run may be queued again)
"""

from __future__ import annotations

from enum import StrEnum

from lcl_core.errors import UserError


class State(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


ALLOWED: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.CANCELLED}),
    # back to queued: the lease was lost, or the worker that held it is leaving
    State.RUNNING: frozenset(
        {State.SUCCEEDED, State.FAILED, State.CANCELLED, State.CANCELLING, State.QUEUED},
    ),
    # a run may finish before the cancel reaches it
    State.CANCELLING: frozenset({State.CANCELLED, State.SUCCEEDED, State.FAILED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset({State.QUEUED}),
    State.CANCELLED: frozenset({State.QUEUED}),
}
LEASED = frozenset({State.RUNNING, State.CANCELLING})  # some worker holds the run
FINISHED = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})


class ForbiddenTransition(UserError):
    """The state of the run does not allow what was asked."""

    def __init__(self, run_id: str, state: str, wanted: str) -> None:
        super().__init__(f"run {run_id} is {state} and cannot be {wanted}", code="forbidden_transition")
        self.run_id = run_id
        self.state = state
        self.wanted = wanted


def check_transition(run_id: str, source: str, target: State) -> None:
    """Raises: ForbiddenTransition unless ``source`` may become ``target``."""
    if target not in ALLOWED[State(source)]:
        raise ForbiddenTransition(run_id, source, target.value)
