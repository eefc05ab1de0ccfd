"""From one state to the next."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import object_session

from lcl_core.runs.outbox import TOLD, announce
from lcl_core.runs.states import State, check_transition
from lcl_core.runs.tables import Run


def move(run: Run, target: State, **changes: Any) -> Run:
    """The only place that writes ``state`` of a row that is there; webhooks hear of it. Raises: ForbiddenTransition."""
    check_transition(run.id, run.state, target)
    run.state = target.value
    for name, value in changes.items():
        setattr(run, name, value)
    session = object_session(run)
    if target in TOLD and session is not None:
        announce(session, run)
    return run
