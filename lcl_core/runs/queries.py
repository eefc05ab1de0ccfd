"""Reading runs: one, a page, its metrics, an encoder's figures, the workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from lcl_core.errors import UserError
from lcl_core.runs.states import State
from lcl_core.runs.tables import Metric, Run, RunTag, Worker

PAGE_LIMIT = 200


@dataclass(frozen=True)
class Page:
    """``items`` newest first; ``next_cursor`` asks for the page after, None when there is none."""

    items: list[Run]
    next_cursor: str | None


def get_run(session: Session, run_id: str, owner: str | None = None) -> Run:
    """``owner``: only if it is theirs; None: whoever's. Raises: UserError ``unknown_run``."""
    run = session.get(Run, run_id)
    if run is None or owner not in (None, run.owner):
        raise unknown_run(run_id)
    return run


def unknown_run(run_id: str) -> UserError:
    return UserError(f"there is no run {run_id!r}", code="unknown_run")


def list_runs(
    session: Session,
    *,
    kind: str | None = None,
    state: str | None = None,
    tag: str | None = None,
    owner: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> Page:
    """A page of runs. Pages are stable: a run that arrives meanwhile shifts nothing.

    Raises: UserError ``bad_cursor`` or ``bad_limit``.
    """
    if not 1 <= limit <= PAGE_LIMIT:
        raise UserError(f"limit must be 1 to {PAGE_LIMIT} (got {limit})", code="bad_limit", field="limit")
    # of a tag's runs its own table knows the order; sorted by the run's id, all of them would be fetched first
    key, whose = (Run.id, Run.owner) if tag is None else (RunTag.run_id, RunTag.owner)
    query = select(Run).order_by(key.desc()).limit(limit + 1)
    if cursor is not None:
        if not cursor.startswith("run_"):
            raise UserError("cursor is not one that a page gave", code="bad_cursor", field="cursor")
        query = query.where(key < cursor, Run.id < cursor)  # PostgreSQL does not see that both are the same
    for column, wanted in ((Run.kind, kind), (Run.state, state), (whose, owner)):
        if wanted is not None:
            query = query.where(column == wanted)
    if tag is not None:
        query = query.join(RunTag, RunTag.run_id == Run.id).where(RunTag.tag == tag)
    found = list(session.scalars(query))
    items = found[:limit]
    return Page(items, items[-1].id if len(found) > limit else None)


def metrics_after(
    session: Session, run_id: str, after: int = 0, limit: int | None = None, *, step: int | None = None
) -> Sequence[Metric]:
    """Metric rows whose ``id`` is above ``after`` (and whose step is above ``step``), in the order they came in."""
    query = select(Metric).where(Metric.run_id == run_id, Metric.id > after).order_by(Metric.id)
    if step is not None:
        query = query.where(Metric.step > step)
    return session.scalars(query.limit(limit)).all()


def figures_of(session: Session, encoder_id: str) -> list[tuple[Run, list[dict[str, Any]]]]:
    """The evaluations of an encoder, newest first, each with its rows of figures."""
    query = (
        select(Run)
        .where(Run.encoder_id == encoder_id, Run.kind == "evaluate", Run.state == State.SUCCEEDED.value)
        .order_by(Run.id.desc())
    )
    return [(run, (run.result or {}).get("rows", [])) for run in session.scalars(query)]


def count_by_state(session: Session) -> dict[str, int]:
    """How many runs are in each state; states without runs are 0."""
    counted = dict(session.execute(select(Run.state, func.count()).group_by(Run.state)).tuples().all())
    return {state.value: counted.get(state.value, 0) for state in State}


def list_workers(session: Session) -> Sequence[Worker]:
    """Workers that are or lately were alive, longest-serving first."""
    return session.scalars(select(Worker).order_by(Worker.started_at, Worker.id)).all()
