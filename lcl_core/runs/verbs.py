"""What a person may do to a run. Each verb locks the row, asks the state machine, and changes the row."""

from __future__ import annotations

from sqlalchemy import delete as sql_delete
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from lcl_core.errors import UserError
from lcl_core.runs.database import now
from lcl_core.runs.deposits import forget
from lcl_core.runs.queries import unknown_run
from lcl_core.runs.states import FINISHED, UNCLAIMED, ForbiddenTransition, State
from lcl_core.runs.submission import ATTEMPTS
from lcl_core.runs.tables import Metric, Predecessor, Run, StudyCell
from lcl_core.runs.transitions import move


def request_cancel(session: Session, run_id: str) -> Run:
    """A run that nobody holds is cancelled at once; a running one is ``cancelling`` until its worker has stopped it."""
    run = _locked(session, run_id)
    if run.state == State.CANCELLING:
        raise ForbiddenTransition(run_id, run.state, "cancelled again")
    return cancel_locked(session, run)


def cancel_locked(session: Session, run: Run) -> Run:
    """The same for a run whose row is locked. Raises: ForbiddenTransition."""
    if run.state in UNCLAIMED:
        return move(run, State.CANCELLED, finished_at=now(session))
    return move(run, State.CANCELLING)


def pause(session: Session, run_id: str) -> Run:
    """Hold a run back; one at work is ``pausing`` until its worker has stopped it at a checkpoint.

    It keeps its place in the queue, and its attempt is not counted.
    """
    run = _locked(session, run_id)
    if run.state not in (State.WAITING, State.QUEUED, State.RUNNING):
        raise ForbiddenTransition(run_id, run.state, "paused")
    return move(run, State.PAUSING if run.state == State.RUNNING else State.PAUSED)


def unpause(session: Session, run_id: str) -> Run:
    """Let a paused run go on from where it was: in the queue, or waiting for others."""
    run = _locked(session, run_id)
    if run.state != State.PAUSED:
        raise ForbiddenTransition(run_id, run.state, "unpaused; only a paused run can")
    return move(run, _place_of(session, run), ready_at=now(session))


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

    Raises: ForbiddenTransition while the run is not finished; UserError ``run_in_study`` while a study shows it.
    """
    run = _locked(session, run_id)
    if run.state not in FINISHED:
        raise ForbiddenTransition(run_id, run.state, "deleted; cancel it first")
    _check_unused(session, run_id)
    _check_not_awaited(session, run_id)
    session.delete(run)
    forget(session, f"runs/{run_id}")


def _check_unused(session: Session, run_id: str) -> None:
    query = select(StudyCell.study_id).where(or_(StudyCell.run_id == run_id, StudyCell.evaluation_id == run_id))
    study = session.scalars(query.limit(1)).one_or_none()
    if study is not None:
        message = f"run {run_id} stands in the table of study {study}; delete the study first"
        raise UserError(message, code="run_in_study")


def _check_not_awaited(session: Session, run_id: str) -> None:
    """A run that waits must find out how the one before it ended."""
    query = (
        select(Run.id)
        .join(Predecessor, Predecessor.run_id == Run.id)
        .where(Predecessor.after_id == run_id, Run.state.in_([State.WAITING.value, State.PAUSED.value]))
    )
    waiting = session.scalars(query.limit(1)).one_or_none()
    if waiting is not None:
        raise UserError(f"run {waiting} comes after {run_id} and still waits; cancel that first", code="run_is_awaited")


def _place_of(session: Session, run: Run) -> State:
    """Where a run that nobody holds belongs."""
    unfinished = (
        select(Run.id)
        .join(Predecessor, Predecessor.after_id == Run.id)
        .where(Predecessor.run_id == run.id, Run.state != State.SUCCEEDED.value)
    )
    return State.QUEUED if session.scalars(unfinished.limit(1)).first() is None else State.WAITING


def _queue_again(session: Session, run_id: str, from_scratch: bool) -> Run:
    run, moment = _locked(session, run_id), now(session)
    if run.state not in FINISHED:  # a running run may be queued again too, but only by its lease
        raise ForbiddenTransition(run_id, run.state, "queued again before it is cancelled or has failed")
    return move(
        run,
        _place_of(session, run),
        queued_at=moment,
        ready_at=moment,
        started_at=None,
        finished_at=None,
        reason=None,
        interruption=None,
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
