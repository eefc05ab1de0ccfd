"""Looking at studies: one, a page, its cells with their runs, and how it stands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from lcl_core.errors import UserError
from lcl_core.runs.queries import PAGE_LIMIT
from lcl_core.runs.tables import Metric, Run, Study, StudyCell
from lcl_core.specs import StudySpec, parse_as
from lcl_core.studies.facts import CellFacts, RunFacts
from lcl_core.studies.standing import Standing, standing_of
from lcl_core.studies.states import cell_state, study_state


@dataclass(frozen=True)
class StudyPage:
    """``items`` newest first; ``next_cursor`` asks for the page after, None when there is none."""

    items: list[Study]
    next_cursor: str | None


def get_study(session: Session, study_id: str, owner: str | None = None) -> Study:
    """``owner``: only if it is theirs; None: whoever's. Raises: UserError ``unknown_study``."""
    study = session.get(Study, study_id)
    if study is None or owner not in (None, study.owner):
        raise UserError(f"there is no study {study_id!r}", code="unknown_study")
    return study


def list_studies(
    session: Session, *, owner: str | None = None, limit: int = 50, cursor: str | None = None
) -> StudyPage:
    """A page of studies. Raises: UserError ``bad_cursor`` or ``bad_limit``."""
    if not 1 <= limit <= PAGE_LIMIT:
        raise UserError(f"limit must be 1 to {PAGE_LIMIT} (got {limit})", code="bad_limit", field="limit")
    query = select(Study).order_by(Study.id.desc()).limit(limit + 1)
    if cursor is not None:
        if not cursor.startswith("study_"):
            raise UserError("cursor is not one that a page gave", code="bad_cursor", field="cursor")
        query = query.where(Study.id < cursor)
    if owner is not None:
        query = query.where(Study.owner == owner)
    found = list(session.scalars(query))
    items = found[:limit]
    return StudyPage(items, items[-1].id if len(found) > limit else None)


def study_spec(study: Study) -> StudySpec:
    """Raises: UserError ``bad_spec`` when a newer version no longer understands it."""
    return parse_as(StudySpec, study.spec)


def study_cells(session: Session, study_id: str) -> list[CellFacts]:
    """The cells in their order, each with what is known of its runs."""
    evaluation = aliased(Run)
    query = (
        select(StudyCell, Run, evaluation)
        .join(Run, Run.id == StudyCell.run_id)
        .outerjoin(evaluation, evaluation.id == StudyCell.evaluation_id)
        .where(StudyCell.study_id == study_id)
        .order_by(StudyCell.number)
    )
    return [
        CellFacts(
            number=cell.number,
            labels=cell.labels,
            parameters=cell.parameters,
            seed=cell.seed,
            rung=cell.rung,
            run=_facts(run),
            evaluation=None if examined is None else _facts(examined),
        )
        for cell, run, examined in session.execute(query).tuples()
    ]


def study_metrics(session: Session, run_ids: Sequence[str], most: int = 200) -> dict[str, list[dict[str, Any]]]:
    """{run: its metric lines in order}, thinned alike to at most about ``most`` a run, so that seeds stay in step."""
    counts = select(func.count()).where(Metric.run_id.in_(run_ids)).group_by(Metric.run_id)
    stride = max(1, math.ceil(max(session.scalars(counts), default=0) / most))
    place = func.row_number().over(partition_by=Metric.run_id, order_by=(Metric.step, Metric.id))
    numbered = select(Metric.run_id, Metric.values, place.label("place")).where(Metric.run_id.in_(run_ids)).subquery()
    query = (
        select(numbered.c.run_id, numbered.c["values"])
        .where(numbered.c.place % stride == 0)
        .order_by(numbered.c.run_id, numbered.c.place)
    )
    lines: dict[str, list[dict[str, Any]]] = {}
    for run_id, line in session.execute(query).tuples():
        lines.setdefault(run_id, []).append(line)
    return lines


def standings(session: Session, studies: Sequence[Study]) -> dict[str, Standing]:
    """{id: how it stands} of several studies, without reading what their runs found."""
    counts = _counts(session, studies)
    return {study.id: _standing(session, study, counts.get(study.id, {})) for study in studies}


def _standing(session: Session, study: Study, counts: dict[str, int]) -> Standing:
    cancelled = study.cancelled_at is not None
    if study.spec["search"]["kind"] == "halving":
        return standing_of(study_spec(study), study_cells(session, study.id), cancelled=cancelled)
    return Standing(study_state(counts, cancelled=cancelled), counts)


def _counts(session: Session, studies: Sequence[Study]) -> dict[str, dict[str, int]]:
    """{study: {state: cells}}, in one query."""
    evaluation = aliased(Run)
    query = (
        select(StudyCell.study_id, Run.state, evaluation.state, func.count())
        .join(Run, Run.id == StudyCell.run_id)
        .outerjoin(evaluation, evaluation.id == StudyCell.evaluation_id)
        .where(StudyCell.study_id.in_([study.id for study in studies]))
        .group_by(StudyCell.study_id, Run.state, evaluation.state)
    )
    ended = {study.id for study in studies if study.cancelled_at is not None}
    found: dict[str, dict[str, int]] = {}
    for study_id, run, examined, count in session.execute(query).tuples():
        counts = found.setdefault(study_id, {})
        state = cell_state(run, examined, cancelled=study_id in ended)
        counts[state] = counts.get(state, 0) + count
    return found


def _facts(run: Run) -> RunFacts:
    return RunFacts(
        id=run.id,
        state=run.state,
        result=run.result or {},
        spec=run.spec,
        reason=run.reason,
        progress=run.progress,
        continues=run.continues,
    )
