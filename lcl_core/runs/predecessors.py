"""Runs that come after others: they wait for the others' success, and end with their failure.

A run names only runs that are there already, so no chain ever closes to a circle.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Select, and_, or_, select
from sqlalchemy.orm import Session, aliased

from lcl_core.errors import UserError
from lcl_core.runs.database import now
from lcl_core.runs.states import State
from lcl_core.runs.tables import Predecessor, Run
from lcl_core.runs.transitions import move

_LOST = (State.FAILED.value, State.CANCELLED.value)


def check_predecessors(session: Session, after: Sequence[str], sight: str | None = None) -> bool:
    """Whether all of them have succeeded already. ``sight``: whose runs may be named; None: everybody's.

    Raises: UserError ``unknown_predecessor`` or ``predecessor_failed``, naming the place in the list.
    """
    if not after:
        return True
    query = select(Run.id, Run.state).where(Run.id.in_(after))
    if sight is not None:
        query = query.where(Run.owner == sight)
    found = dict(session.execute(query).tuples().all())
    for at, run_id in enumerate(after):
        if run_id not in found:
            message = f"there is no run {run_id!r} to come after; submit that one first"
            raise UserError(message, code="unknown_predecessor", field=f"after.{at}")
        if found[run_id] in _LOST:
            message = f"run {run_id} is {found[run_id]}; resume it first, or leave it out"
            raise UserError(message, code="predecessor_failed", field=f"after.{at}")
    return all(state == State.SUCCEEDED for state in found.values())


def any_due(session: Session) -> bool:
    """Whether ``release`` would find something; only reads."""
    return session.scalars(select(Run.id).where(_is_due()).limit(1)).first() is not None


def release(session: Session) -> list[str]:
    """Queue the runs whose predecessors have all succeeded, and cancel those of which one has not.

    May be done at any time, by any number at once. Returns: ids of the runs that are queued now.
    """
    queued: list[str] = []
    moment = now(session)
    while found := list(session.scalars(_due_runs())):  # what is cancelled may be what others wait for
        for run in found:
            lost = _lost_predecessor(session, run.id)
            if lost is None:
                move(run, State.QUEUED, ready_at=moment)
                queued.append(run.id)
            else:
                move(run, State.CANCELLED, finished_at=moment, reason=_cause(lost))
        session.flush()
    return queued


def _is_due() -> ColumnElement[bool]:
    """Of a waiting run: a predecessor was lost, or none is unfinished."""
    other = aliased(Run)
    of_it = select(Predecessor.run_id).join(other, other.id == Predecessor.after_id)
    lost = of_it.where(other.state.in_(_LOST))
    unfinished = of_it.where(other.state != State.SUCCEEDED.value)
    return and_(Run.state == State.WAITING.value, or_(Run.id.in_(lost), Run.id.not_in(unfinished)))


def _due_runs() -> Select[Run]:
    due = select(Run).where(_is_due()).order_by(Run.id)
    return due.with_for_update(of=Run, skip_locked=True).execution_options(populate_existing=True)


def _lost_predecessor(session: Session, run_id: str) -> Run | None:
    query = (
        select(Run)
        .join(Predecessor, Predecessor.after_id == Run.id)
        .where(Predecessor.run_id == run_id, Run.state.in_(_LOST))
        .order_by(Run.id)
    )
    return session.scalars(query.limit(1)).first()


def _cause(lost: Run) -> dict[str, str]:
    why = (lost.reason or {}).get("message")
    told = f"run {lost.id}, which this one comes after, {'failed' if lost.state == State.FAILED else 'was cancelled'}"
    told += f": {why}" if why else ""
    return {"code": "predecessor_failed", "message": f"{told}; resume that one, then this one", "run": lost.id}
