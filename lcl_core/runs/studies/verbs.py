"""What a person may do to a study. Each verb follows from the states of its runs and changes them."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from lcl_core.runs.database import now
from lcl_core.runs.states import FINISHED, ForbiddenTransition, State
from lcl_core.runs.studies.reading import standings
from lcl_core.runs.studies.turns import take_turn
from lcl_core.runs.tables import Run, Study, StudyCell
from lcl_core.runs.verbs import cancel_locked
from lcl_core.runs.verbs import resume as resume_run
from lcl_core.studies.standing import Standing

ENDED = ("succeeded", "failed", "cancelled")


def cancel_study(session: Session, study: Study) -> Study:
    """Nothing more is submitted for it, and its unfinished runs are cancelled.

    Left alone: runs that another study waits for, and those that were there before any study wanted them.

    Raises: ForbiddenTransition once it has ended.
    """
    standing = _turn(session, study)
    if standing.state in ENDED or study.cancelled_at is not None:
        raise ForbiddenTransition(study.id, standing.state, "cancelled", noun="study")
    study.cancelled_at = now(session)
    session.flush()
    query = select(Run).where(Run.id.in_(_own_runs(session, study))).order_by(Run.id).with_for_update(of=Run)
    for run in session.scalars(query.execution_options(populate_existing=True)):
        if run.state not in FINISHED and run.state != State.CANCELLING:
            cancel_locked(session, run)
    return study


def resume_study(session: Session, study: Study) -> list[str]:
    """Queue its failed and cancelled runs again, each to go on from its last checkpoint. Returns: their ids.

    Raises: ForbiddenTransition unless it is cancelled or failed.
    """
    standing = _turn(session, study)
    if standing.state not in ("failed", "cancelled"):
        raise ForbiddenTransition(study.id, standing.state, "resumed", noun="study")
    study.cancelled_at = None
    again = (State.FAILED.value, State.CANCELLED.value)
    query = select(Run.id).where(Run.id.in_(_runs(session, study)), Run.state.in_(again)).order_by(Run.id)
    return [resume_run(session, run_id).id for run_id in session.scalars(query).all()]


def delete_study(session: Session, study: Study) -> None:
    """Remove an ended study; its runs and their encoders stay. Raises: ForbiddenTransition while it goes on."""
    standing = _turn(session, study)
    if standing.state not in ENDED:
        raise ForbiddenTransition(study.id, standing.state, "deleted; cancel it first", noun="study")
    session.delete(study)
    session.flush()


def _turn(session: Session, study: Study) -> Standing:
    take_turn(session)
    session.refresh(study)
    return standings(session, [study])[study.id]


def _runs(session: Session, study: Study) -> set[str]:
    rows = session.execute(select(StudyCell.run_id, StudyCell.evaluation_id).where(StudyCell.study_id == study.id))
    return _named(rows.tuples())


def _own_runs(session: Session, study: Study) -> set[str]:
    """Runs of the study that a study submitted and that no other one which goes on has need of."""
    runs = _runs(session, study)
    others = (
        select(StudyCell.run_id, StudyCell.evaluation_id)
        .join(Study, Study.id == StudyCell.study_id)
        .where(Study.id != study.id, Study.cancelled_at.is_(None))
        .where(or_(StudyCell.run_id.in_(runs), StudyCell.evaluation_id.in_(runs)))
    )
    ours = select(Run.id).where(Run.id.in_(runs), Run.study_id.is_not(None))
    return set(session.scalars(ours)) - _named(session.execute(others).tuples())


def _named(rows: Iterable[tuple[str, str | None]]) -> set[str]:
    return {run_id for row in rows for run_id in row if run_id is not None}
