"""What a person may do to a run. Each verb locks the row, asks the state machine, and changes the row."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete as sql_delete
from sqlalchemy import select
from sqlalchemy.orm import Session

from lcl_core.runs.database import now
from lcl_core.runs.queries import unknown_run
from lcl_core.runs.states import FINISHED, ForbiddenTransition, State, check_transition
from lcl_core.runs.submission import ATTEMPTS
from lcl_core.runs.tables import Metric, Run


def move(run: Run, target: State, **changes: Any) -> Run:
    """The only place that writes ``state``. Raises: ForbiddenTransition."""
    check_transition(run.id, run.state, target)
    run.state = target.value
    for name, value in changes.items():
        setattr(run, name, value)
    return run


def request_cancel(session: Session, run_id: str) -> Run:
    """A queued run is cancelled at once; a running one is ``cancelling`` until its worker has stopped it."""
    run = _locked(session, run_id)
    if run.state == State.QUEUED:
        return move(run, State.CANCELLED, finished_at=now(session))
    if run.state == State.CANCELLING:
        raise ForbiddenTransition(run_id, run.state, "cancelled again")
    return move(run, State.CANCELLING)


def resume(session: Session, run_id: str) -> Run:
    """Queue a failed or cancelled run again; it goes on from its last checkpoint."""
    return _queue_again(session, run_id, from_scratch=False)


def retry(session: Session, run_id: str) -> Run:
    """Queue a failed or cancelled run again; it starts over, its checkpoints and metrics forgotten."""
    run = _queue_again(session, run_id, from_scratch=True)
    run.progress = None
    run.ran_seconds = 0.0
    session.execute(sql_delete(Metric).where(Metric.run_id == run_id))
    return run


def delete(session: Session, run_id: str) -> None:
    """Remove a finished run's row, tags and metrics. What it made (encoder, collection) stays.

    The caller removes RUN_DIR after the commit (``lcl_core.runs.artifacts.discard_run_dir``).

    Raises: ForbiddenTransition while the run is not finished.
    """
    run = _locked(session, run_id)
    if run.state not in FINISHED:
        raise ForbiddenTransition(run_id, run.state, "deleted; cancel it first")
    session.delete(run)


def _queue_again(session: Session, run_id: str, from_scratch: bool) -> Run:
    run = _locked(session, run_id)
    if run.state not in FINISHED:  # a running run may be queued again too, but only by its lease
        raise ForbiddenTransition(run_id, run.state, "queued again before it is cancelled or has failed")
    return move(
        run,
        State.QUEUED,
        queued_at=now(session),
        started_at=None,
        finished_at=None,
        reason=None,
        result=None,
        max_attempts=run.attempt + ATTEMPTS,
        # a resume after a retry that never began still starts over
        from_scratch=from_scratch or run.from_scratch,
    )


def _locked(session: Session, run_id: str) -> Run:
    run = session.scalars(select(Run).where(Run.id == run_id).with_for_update(of=Run)).one_or_none()
    if run is None:
        raise unknown_run(run_id)
    return run
