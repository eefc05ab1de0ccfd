"""Studies in the database: creation, lookup, actions, and submission of the runs that come next.

What follows from what is decided in ``lcl_core.studies``; this module reads rows and submits runs. Whoever submits runs
for studies holds one advisory lock, so no run is submitted twice. ``advance_study`` may be called at any time, by any
number of processes, and again after a crash: one transaction submits a run and records that it did.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session, aliased

from lcl_core.common.errors import UserError
from lcl_core.db.models import Dataset, Metric, Run, Study, StudyCell, new_id, to_json_safe
from lcl_core.db.runs import PAGE_LIMIT, cancel_locked_run, resume_run
from lcl_core.db.session import now
from lcl_core.db.states import FINISHED, ForbiddenTransition, State
from lcl_core.db.submit import find_by_idempotency_key, hash_body, submit
from lcl_core.specs.parsing import AnySpec, datasets_of, parse_as, spec_hash
from lcl_core.specs.study import AdditionSpec, StudySpec
from lcl_core.studies.results import CellRecord, RunRecord, cell_state, study_state
from lcl_core.studies.status import StudyStatus, can_continue, promoted_cells, study_status
from lcl_core.studies.trials import PlannedCell, apply_addition, evaluate_spec, expand_study, resolve_presets

_STUDIES_LOCK = 0x6C636C73747564  # any constant: names the advisory lock on PostgreSQL


def lock_studies(session: Session) -> None:
    """Wait for the others, and be alone until the transaction ends. What they committed is seen afterwards.

    On SQLite a transaction that may write is alone from its first word.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(_STUDIES_LOCK)))


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


def study_cells(session: Session, study_id: str) -> list[CellRecord]:
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
        CellRecord(
            number=cell.number,
            labels=cell.labels,
            parameters=cell.parameters,
            seed=cell.seed,
            rung=cell.rung,
            run=_run_record(run),
            evaluation=None if examined is None else _run_record(examined),
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


def study_statuses(session: Session, studies: Sequence[Study]) -> dict[str, StudyStatus]:
    """{id: how it stands} of several studies, without reading what their runs found."""
    counts = _count_cells(session, studies)
    return {study.id: _study_status(session, study, counts.get(study.id, {})) for study in studies}


def _study_status(session: Session, study: Study, counts: dict[str, int]) -> StudyStatus:
    cancelled = study.cancelled_at is not None
    if study.spec["search"]["kind"] == "halving":
        return study_status(study_spec(study), study_cells(session, study.id), cancelled=cancelled)
    return StudyStatus(study_state(counts, cancelled=cancelled), counts)


def _count_cells(session: Session, studies: Sequence[Study]) -> dict[str, dict[str, int]]:
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


def _run_record(run: Run) -> RunRecord:
    return RunRecord(
        id=run.id,
        state=run.state,
        result=run.result or {},
        spec=run.spec,
        reason=run.reason,
        progress=run.progress,
        continues=run.continues,
    )


STUDY_PRIORITY = -1  # priority of pre-trainings: runs that somebody submits by hand do not wait for a whole study
REUSABLE_STATES = (State.SUCCEEDED.value, State.RUNNING.value, State.QUEUED.value)  # the one that is furthest first


@dataclass(frozen=True)
class RunRequest:
    """A run that a study needs.

    Attributes:
        continues: a run that a new one goes on from.
    """

    spec: AnySpec
    name: str
    continues: str | None = None


def find_or_submit_runs(session: Session, study: Study, kind: str, wanted: Sequence[RunRequest]) -> list[Run]:
    """For each a good run of the study's owner of the same spec on the same data, else a new one.

    The caller has the turn.
    """
    found = find_reusable_runs(session, kind, [each.spec for each in wanted], study.owner)
    for each in wanted:
        key = spec_hash(kind, each.spec)
        if key not in found:
            found[key] = _submit_for_study(session, study, kind, each)
    return [found[spec_hash(kind, each.spec)] for each in wanted]


def find_reusable_runs(session: Session, kind: str, specs: Iterable[AnySpec], owner: str) -> dict[str, Run]:
    """{hash of a spec: a run of it that succeeded, or may still}; specs without one are left out.

    Only runs of ``owner``: whoever guesses a spec is not shown what came of it for somebody else.
    """
    wanted = {spec_hash(kind, spec): spec for spec in specs}
    query = select(Run).where(
        Run.kind == kind, Run.spec_hash.in_(wanted), Run.state.in_(REUSABLE_STATES), Run.owner == owner
    )
    present = dict(session.execute(select(Dataset.name, Dataset.content_hash)).tuples().all())
    found: dict[str, Run] = {}
    for run in sorted(session.scalars(query.order_by(Run.id)), key=lambda run: REUSABLE_STATES.index(run.state)):
        if run.spec_hash is not None and _has_same_inputs(run, wanted[run.spec_hash], present):
            found.setdefault(run.spec_hash, run)
    return found


def _submit_for_study(session: Session, study: Study, kind: str, wanted: RunRequest) -> Run:
    return submit(
        session,
        kind,
        wanted.spec,
        name=wanted.name,
        owner=study.owner,
        priority=STUDY_PRIORITY if kind == "pretrain" else 0,
        study_id=study.id,
        continues=wanted.continues,
    )


def _has_same_inputs(run: Run, spec: AnySpec, present: dict[str, str | None]) -> bool:
    """Whether the datasets hold now what they held when the run began, as far as both are known."""
    read = (run.inputs or {}).get("datasets", {})
    pairs = [(read.get(name), present.get(name)) for name in datasets_of(spec)]
    return all(before is None or now is None or before == now for before, now in pairs)


def create_study(
    session: Session,
    spec: StudySpec,
    name: str | None = None,
    owner: str = "local",
    idempotency_key: str | None = None,
) -> Study:
    """A study with a queued run for every cell that none was found for, or what this ``idempotency_key`` made.

    The caller commits, then rings the doorbell.

    Raises: UserError ``bad_spec``, ``too_many_cells``, ``same_cell``; ``idempotency_conflict``: the key came with
        another body.
    """
    spec = resolve_presets(spec)
    cells = expand_study(spec)
    full = to_json_safe(spec.model_dump(mode="json"))
    body_hash = hash_body({"spec": full, "name": name})
    lock_studies(session)
    if repeated := find_by_idempotency_key(session, Study, owner, idempotency_key, body_hash):
        return repeated
    study = Study(
        id=new_id("study"),
        name=name,
        spec=full,
        owner=owner,
        idempotency_key=idempotency_key,
        body_hash=body_hash,
        created_at=now(session),
    )
    session.add(study)
    session.flush()
    add_cells(session, study, cells)
    return study


def plan_study(session: Session, spec: StudySpec, owner: str = "local") -> dict[str, int]:
    """What ``make_study`` would come to: rows, cells, and how many of their pre-trainings ``owner`` has already.

    Raises: as ``make_study``.
    """
    cells = expand_study(spec)
    there = find_reusable_runs(session, "pretrain", [cell.spec for cell in cells], owner)
    return {
        "rows": len({frozenset(cell.labels.items()) for cell in cells}),
        "seeds": len(spec.seeds),
        "cells": len(cells),
        "reused": len(there),
    }


def extend_study(session: Session, study: Study, addition: AdditionSpec) -> list[Run]:
    """Add seeds, variants or trials. Cells that the study has stay as they are. Returns: the runs of the new cells.

    Raises: ForbiddenTransition for a cancelled study; UserError as ``extended`` and ``make_study``.
    """
    lock_studies(session)
    session.refresh(study)
    if study.cancelled_at is not None:
        raise ForbiddenTransition(study.id, "cancelled", "extended; resume it first", noun="study")
    spec = apply_addition(study_spec(study), addition)
    known = {cell.key for cell in study_cells(session, study.id)}
    study.spec = to_json_safe(spec.model_dump(mode="json"))
    return add_cells(session, study, [cell for cell in expand_study(spec) if cell.key not in known])


def add_cells(
    session: Session, study: Study, cells: Sequence[PlannedCell], continues: Sequence[str | None] | None = None
) -> list[Run]:
    """Rows for new cells, each with its run. The caller has the turn.

    Args:
        continues: for each cell the run that a new one of it goes on from.
    """
    query = select(func.coalesce(func.max(StudyCell.number), -1)).where(StudyCell.study_id == study.id)
    first = session.scalars(query).one() + 1
    wanted = [
        RunRequest(cell.spec, run_name(study, cell.labels, cell.seed), parent)
        for cell, parent in zip(cells, continues or [None] * len(cells), strict=True)
    ]
    runs = find_or_submit_runs(session, study, "pretrain", wanted)
    session.add_all(
        StudyCell(
            study_id=study.id,
            number=number,
            labels=cell.labels,
            parameters=to_json_safe(cell.parameters),
            seed=cell.seed,
            rung=cell.rung,
            run_id=run.id,
        )
        for number, (cell, run) in enumerate(zip(cells, runs, strict=True), start=first)
    )
    session.flush()
    return runs


def run_name(study: Study, labels: dict[str, str], seed: int) -> str:
    """Also the name of the encoder that comes out: letters, digits and dashes."""
    order = [axis["name"] for axis in study.spec["axes"]]
    words = [study.name or study.id, *(labels[axis] for axis in sorted(labels, key=_axis_position(order))), f"s{seed}"]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(words))[-100:].lstrip("._-")


def _axis_position(order: list[str]) -> Any:
    return lambda axis: order.index(axis) if axis in order else len(order)


ENDED_STATES = ("succeeded", "failed", "cancelled")


def cancel_study(session: Session, study: Study) -> Study:
    """Nothing more is submitted for it, and its unfinished runs are cancelled.

    Left alone: runs that another study waits for, and those that were there before any study wanted them.

    Raises: ForbiddenTransition once it has ended.
    """
    standing = _lock_study(session, study)
    if standing.state in ENDED_STATES or study.cancelled_at is not None:
        raise ForbiddenTransition(study.id, standing.state, "cancelled", noun="study")
    study.cancelled_at = now(session)
    session.flush()
    query = select(Run).where(Run.id.in_(_exclusive_runs(session, study))).order_by(Run.id).with_for_update(of=Run)
    for run in session.scalars(query.execution_options(populate_existing=True)):
        if run.state not in FINISHED and run.state != State.CANCELLING:
            cancel_locked_run(session, run)
    return study


def resume_study(session: Session, study: Study) -> list[str]:
    """Queue its failed and cancelled runs again, each to go on from its last checkpoint. Returns: their ids.

    Raises: ForbiddenTransition unless it is cancelled or failed.
    """
    standing = _lock_study(session, study)
    if standing.state not in ("failed", "cancelled"):
        raise ForbiddenTransition(study.id, standing.state, "resumed", noun="study")
    study.cancelled_at = None
    again = (State.FAILED.value, State.CANCELLED.value)
    query = select(Run.id).where(Run.id.in_(_study_runs(session, study)), Run.state.in_(again)).order_by(Run.id)
    return [resume_run(session, run_id).id for run_id in session.scalars(query).all()]


def delete_study(session: Session, study: Study) -> None:
    """Remove an ended study; its runs and their encoders stay. Raises: ForbiddenTransition while it goes on."""
    standing = _lock_study(session, study)
    if standing.state not in ENDED_STATES:
        raise ForbiddenTransition(study.id, standing.state, "deleted; cancel it first", noun="study")
    session.delete(study)
    session.flush()


def _lock_study(session: Session, study: Study) -> StudyStatus:
    lock_studies(session)
    session.refresh(study)
    return study_statuses(session, [study])[study.id]


def _study_runs(session: Session, study: Study) -> set[str]:
    rows = session.execute(select(StudyCell.run_id, StudyCell.evaluation_id).where(StudyCell.study_id == study.id))
    return _run_ids(rows.tuples())


def _exclusive_runs(session: Session, study: Study) -> set[str]:
    """Runs of the study that a study submitted and that no other one which goes on has need of."""
    runs = _study_runs(session, study)
    others = (
        select(StudyCell.run_id, StudyCell.evaluation_id)
        .join(Study, Study.id == StudyCell.study_id)
        .where(Study.id != study.id, Study.cancelled_at.is_(None))
        .where(or_(StudyCell.run_id.in_(runs), StudyCell.evaluation_id.in_(runs)))
    )
    ours = select(Run.id).where(Run.id.in_(runs), Run.study_id.is_not(None))
    return set(session.scalars(ours)) - _run_ids(session.execute(others).tuples())


def _run_ids(rows: Iterable[tuple[str, str | None]]) -> set[str]:
    return {run_id for row in rows for run_id in row if run_id is not None}


def due_studies(session: Session) -> list[str]:
    """Ids of the studies for which ``advance_study`` may find something to do; only reads."""
    waiting = (
        select(StudyCell.study_id)
        .join(Run, Run.id == StudyCell.run_id)
        .where(StudyCell.evaluation_id.is_(None), Run.state == State.SUCCEEDED.value)
    )
    examined = select(Study.id).where(Study.cancelled_at.is_(None), Study.id.in_(waiting))
    ready = [study.id for study in _idle_halvings(session) if _has_promotions(session, study)]
    return sorted({*session.scalars(examined), *ready})


def advance_study(session: Session, study_id: str) -> list[str]:
    """Submit what comes next. Returns: ids of the runs that are queued now; none when there was nothing to do.

    Raises: UserError when a newer version no longer understands the study's spec.
    """
    lock_studies(session)
    study = session.get(Study, study_id, populate_existing=True)
    if study is None or study.cancelled_at is not None:
        return []
    spec = study_spec(study)
    runs = _submit_evaluations(session, study, spec)
    cells = study_cells(session, study_id)
    more = promoted_cells(spec, cells)
    runs += add_cells(session, study, more, [_parent_run(spec, cells, cell) for cell in more])
    return [run.id for run in runs if run.state == State.QUEUED.value]


def _idle_halvings(session: Session) -> list[Study]:
    """Halvings without finalists of which no run is at work."""
    unfinished = [state.value for state in State if state not in FINISHED]
    at_work = (
        select(StudyCell.number)
        .join(Run, Run.id.in_([StudyCell.run_id, StudyCell.evaluation_id]))
        .where(StudyCell.study_id == Study.id, Run.state.in_(unfinished))
    )
    query = (
        select(Study, func.max(StudyCell.rung))
        .join(StudyCell, StudyCell.study_id == Study.id)
        .where(Study.cancelled_at.is_(None), Study.spec["search"]["kind"].as_string() == "halving", ~at_work.exists())
        .group_by(Study.id)
    )
    return [study for study, rung in session.execute(query).tuples() if rung < len(study.spec["search"]["rungs"])]


def _has_promotions(session: Session, study: Study) -> bool:
    """True too for a spec that is not understood any more: ``advance_study`` says what is wrong with it."""
    try:
        return bool(promoted_cells(study_spec(study), study_cells(session, study.id)))
    except UserError:
        return True


def _submit_evaluations(session: Session, study: Study, spec: StudySpec) -> list[Run]:
    """An evaluation for every encoder that came out and has none."""
    query = (
        select(StudyCell, Run)
        .join(Run, Run.id == StudyCell.run_id)
        .where(StudyCell.study_id == study.id, StudyCell.evaluation_id.is_(None), Run.state == State.SUCCEEDED.value)
        .order_by(StudyCell.number)
    )
    found = session.execute(query).tuples().all()
    wanted = [
        RunRequest(evaluate_spec(spec, cell.rung, str(run.encoder_id)), run_name(study, cell.labels, cell.seed))
        for cell, run in found
    ]
    evaluations = find_or_submit_runs(session, study, "evaluate", wanted)
    for (cell, _), evaluation in zip(found, evaluations, strict=True):
        cell.evaluation_id = evaluation.id
    session.flush()
    return evaluations


def _parent_run(spec: StudySpec, cells: list[CellRecord], cell: PlannedCell) -> str | None:
    """The run of the same trial and seed one rung below, if the new one may go on from it."""
    if not can_continue(spec, cell):
        return None
    below = (frozenset(cell.labels.items()), cell.seed, cell.rung - 1)
    return next((each.run.id for each in cells if each.key == below), None)
