"""Studies in the database: creation, lookup, actions, and submission of the runs that come next.

``lcl_core.studies`` decides what a study needs; this module reads the rows and submits the runs. Submissions for
studies hold one advisory lock, so no run is submitted twice. ``advance_study`` may be called at any time, by any
number of processes, and again after a crash: one transaction submits a run and records that it did.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session, aliased

from lcl_core.common.errors import Conflict, NotFound, UserError
from lcl_core.db.models import Run, Study, StudyCell, new_id
from lcl_core.db.registry import pin_reference
from lcl_core.db.runs import cancel_locked_run, estimate_pretrainings, resume_run
from lcl_core.db.session import CursorPage, lock_until_commit, now, read_page, storable_json
from lcl_core.db.states import FINISHED, ForbiddenTransition, State
from lcl_core.db.submit import find_by_idempotency_key, find_reusable_runs, hash_body, submit
from lcl_core.estimate.report import add_estimates
from lcl_core.specs.parsing import AnySpec, parse_as, spec_hash
from lcl_core.specs.pretrain import PretrainSpec
from lcl_core.specs.study import AdditionSpec, StudySpec
from lcl_core.studies.results import CellRecord, RunRecord, StudyStatus, cell_state, study_state
from lcl_core.studies.trials import (
    PlannedCell,
    apply_addition,
    evaluate_spec,
    expand_study,
    replace_encoders,
    replace_in_axes,
    resolve_presets,
)

MAX_ESTIMATED = 64  # different pre-trainings of a study whose time is estimated
STUDY_PRIORITY = -1  # of pre-trainings: runs that users submit do not wait for a whole study
ENDED_STATES = ("succeeded", "failed", "cancelled")
_STUDIES_LOCK = 0x6C636C73747564  # any constant: key of the advisory lock on PostgreSQL


def create_study(
    session: Session,
    spec: StudySpec,
    name: str | None = None,
    owner: str = "local",
    idempotency_key: str | None = None,
) -> Study:
    """Insert a study and queue a run for every cell without a reusable run; a repeated key returns its study.

    The study keeps the encoders that its names refer to now. The caller commits, then publishes the wake-up message.
    """
    spec = resolve_presets(spec)
    lock_studies(session)
    if repeated := find_repeated_study(session, spec, name, owner, idempotency_key):
        return repeated
    body_hash = _hash_submission(spec, name)
    spec = _pin_encoders(session, spec)
    cells = expand_study(spec)
    study = Study(
        id=new_id("study"),
        name=name,
        spec=storable_json(spec.model_dump(mode="json")),
        owner=owner,
        idempotency_key=idempotency_key,
        body_hash=body_hash,
        created_at=now(session),
    )
    session.add(study)
    session.flush()
    add_cells(session, study, cells)
    return study


def find_repeated_study(
    session: Session, spec: StudySpec, name: str | None, owner: str, idempotency_key: str | None
) -> Study | None:
    """The study that an earlier request with this key has created, whatever its names refer to now."""
    return find_by_idempotency_key(session, Study, owner, idempotency_key, _hash_submission(spec, name))


def _hash_submission(spec: StudySpec, name: str | None) -> str:
    """Of the spec without presets, before its names are pinned."""
    return hash_body({"spec": storable_json(resolve_presets(spec).model_dump(mode="json")), "name": name})


def plan_study(
    session: Session, spec: StudySpec, owner: str = "local", visible_to: str | None = None
) -> dict[str, Any]:
    """``rows``, ``seeds``, ``cells`` and ``reused`` (runs of ``owner``) of the study that would be inserted;
    ``seconds`` and ``certainty`` of the pre-trainings that it would queue; None where there are none, or too many.

    ``visible_to``: owner of the runs that the estimate may use; None: all owners.
    """
    cells = expand_study(_pin_encoders(session, resolve_presets(spec)))
    reusable = find_reusable_runs(session, "pretrain", [cell.spec for cell in cells], owner)
    new = [cell.spec for cell in cells if spec_hash("pretrain", cell.spec) not in reusable]
    different: dict[str, list[PretrainSpec]] = defaultdict(list)  # evaluations are not estimated
    for each in (spec.model_copy(update={"seed": 0}) for spec in new):
        different[each.model_dump_json()].append(each)
    time = None
    if 0 < len(different) <= MAX_ESTIMATED:
        estimates = estimate_pretrainings(session, [alike[0] for alike in different.values()], owner=visible_to)
        time = add_estimates(estimates, [len(alike) for alike in different.values()])
    seconds, certainty = time or (None, None)
    return {
        "rows": len({frozenset(cell.labels.items()) for cell in cells}),
        "seeds": len(spec.seeds),
        "cells": len(cells),
        "reused": len(reusable),
        "seconds": seconds and asdict(seconds),
        "certainty": certainty,
    }


def extend_study(session: Session, study: Study, addition: AdditionSpec) -> list[Run]:
    """Add seeds, variants or trials; existing cells stay. Returns: the runs of the new cells."""
    _lock_study(session, study)
    if study.cancelled_at is not None:
        raise ForbiddenTransition(study.id, "cancelled", "extended; resume it first", noun="study")
    added = replace_in_axes(addition.axes, partial(pin_reference, session))
    spec = apply_addition(study_spec(study), addition.model_copy(update={"axes": added}))
    known = {cell.key for cell in study_cells(session, study.id)}
    study.spec = storable_json(spec.model_dump(mode="json"))
    return add_cells(session, study, [cell for cell in expand_study(spec) if cell.key not in known])


def get_study(session: Session, study_id: str) -> Study:
    study = session.get(Study, study_id)
    if study is None:
        raise NotFound(f"there is no study {study_id!r}")
    return study


def list_studies(
    session: Session, *, owner: str | None = None, limit: int = 50, cursor: str | None = None
) -> CursorPage[Study]:
    """A page of studies, newest first."""
    query = select(Study) if owner is None else select(Study).where(Study.owner == owner)
    return read_page(session, query, Study.id, limit, cursor)


def study_spec(study: Study) -> StudySpec:
    return parse_as(StudySpec, study.spec)


def study_cells(session: Session, study_id: str) -> list[CellRecord]:
    """The cells in their order, with their runs."""
    evaluation = aliased(Run)
    query = (
        select(StudyCell, Run, evaluation)
        .join(Run, Run.id == StudyCell.run_id)
        .outerjoin(evaluation, evaluation.id == StudyCell.evaluation_id)
        .where(StudyCell.study_id == study_id)
        .order_by(StudyCell.number)
    )
    records = []
    for cell, run, evaluated in session.execute(query).tuples():
        runs = {"run": _run_record(run), "evaluation": None if evaluated is None else _run_record(evaluated)}
        records.append(CellRecord(cell.number, cell.labels, cell.parameters, cell.seed, **runs))
    return records


def study_statuses(session: Session, studies: Sequence[Study]) -> dict[str, StudyStatus]:
    """{study id: status}, in one query."""
    evaluation = aliased(Run)
    query = (
        select(StudyCell.study_id, Run.state, evaluation.state, func.count())
        .join(Run, Run.id == StudyCell.run_id)
        .outerjoin(evaluation, evaluation.id == StudyCell.evaluation_id)
        .where(StudyCell.study_id.in_([study.id for study in studies]))
        .group_by(StudyCell.study_id, Run.state, evaluation.state)
    )
    cancelled = {study.id for study in studies if study.cancelled_at is not None}
    counts: dict[str, dict[str, int]] = {study.id: defaultdict(int) for study in studies}
    for study_id, run, evaluated, count in session.execute(query).tuples():
        counts[study_id][cell_state(run, evaluated, cancelled=study_id in cancelled)] += count
    return {
        study_id: StudyStatus(study_state(found, cancelled=study_id in cancelled), dict(found))
        for study_id, found in counts.items()
    }


def cancel_study(session: Session, study: Study) -> Study:
    """Cancel the study's unfinished runs, except runs that another study needs or that no study submitted."""
    status = _lock_with_status(session, study)
    if status.state in ENDED_STATES or study.cancelled_at is not None:
        raise ForbiddenTransition(study.id, status.state, "cancelled", noun="study")
    study.cancelled_at = now(session)
    session.flush()
    active = select(Study.id).where(Study.id != study.id, Study.cancelled_at.is_(None))
    own = _study_runs(session, StudyCell.study_id == study.id) - _study_runs(session, StudyCell.study_id.in_(active))
    query = select(Run).where(Run.id.in_(own), Run.study_id.is_not(None)).order_by(Run.id).with_for_update(of=Run)
    for run in session.scalars(query.execution_options(populate_existing=True)):
        if run.state not in FINISHED and run.state != State.CANCELLING:
            cancel_locked_run(session, run)
    return study


def resume_study(session: Session, study: Study) -> tuple[list[str], dict[str, UserError]]:
    """Queue the study's failed and cancelled runs again, from their last checkpoints.

    Returns: ids of those that are queued, and {id of a run that has used up its time: the error with the way out}.
    """
    status = _lock_with_status(session, study)
    if status.state not in ("failed", "cancelled"):
        raise ForbiddenTransition(study.id, status.state, "resumed", noun="study")
    study.cancelled_at = None
    again = (State.FAILED.value, State.CANCELLED.value)
    own = _study_runs(session, StudyCell.study_id == study.id)
    query = select(Run.id).where(Run.id.in_(own), Run.state.in_(again)).order_by(Run.id)
    queued, refused = list[str](), dict[str, UserError]()
    for run_id in session.scalars(query).all():
        try:
            with session.begin_nested():
                queued.append(resume_run(session, run_id).id)
        except Conflict as error:
            refused[run_id] = error
    if status.state == "failed" and refused and not queued:
        raise next(iter(refused.values()))
    return queued, refused


def delete_study(session: Session, study: Study) -> None:
    """Delete an ended study; its runs and encoders stay."""
    status = _lock_with_status(session, study)
    if status.state not in ENDED_STATES:
        raise ForbiddenTransition(study.id, status.state, "deleted; cancel it first", noun="study")
    session.delete(study)
    session.flush()


def due_studies(session: Session) -> list[str]:
    """Ids of the studies with encoders that are not evaluated yet; only reads."""
    unevaluated = (
        select(StudyCell.study_id)
        .join(Run, Run.id == StudyCell.run_id)
        .where(StudyCell.evaluation_id.is_(None), Run.state == State.SUCCEEDED.value)
    )
    query = select(Study.id).where(Study.cancelled_at.is_(None), Study.id.in_(unevaluated)).order_by(Study.id)
    return list(session.scalars(query))


def advance_study(session: Session, study_id: str) -> list[str]:
    """Submit an evaluation of every encoder without one. Returns: ids of the queued runs."""
    lock_studies(session)
    study = session.get(Study, study_id, populate_existing=True)
    if study is None or study.cancelled_at is not None:
        return []
    query = (
        select(StudyCell, Run)
        .join(Run, Run.id == StudyCell.run_id)
        .where(StudyCell.study_id == study.id, StudyCell.evaluation_id.is_(None), Run.state == State.SUCCEEDED.value)
        .order_by(StudyCell.number)
    )
    cells, spec = session.execute(query).tuples().all(), study_spec(study)
    requests: list[tuple[AnySpec, str]] = [
        (evaluate_spec(spec, str(run.encoder_id)), run_name(study, cell.labels, cell.seed)) for cell, run in cells
    ]
    evaluations = find_or_submit_runs(session, study, "evaluate", requests)
    for (cell, _), evaluation in zip(cells, evaluations, strict=True):
        cell.evaluation_id = evaluation.id
    session.flush()
    return [run.id for run in evaluations if run.state == State.QUEUED.value]


def lock_studies(session: Session) -> None:
    """Make other submissions for studies wait until the end of this transaction."""
    lock_until_commit(session, _STUDIES_LOCK)


def add_cells(session: Session, study: Study, cells: Sequence[PlannedCell]) -> list[Run]:
    """Insert rows for new cells, each with its run. The caller holds ``lock_studies``."""
    requests: list[tuple[AnySpec, str]] = [(cell.spec, run_name(study, cell.labels, cell.seed)) for cell in cells]
    runs = find_or_submit_runs(session, study, "pretrain", requests)
    query = select(func.coalesce(func.max(StudyCell.number), -1)).where(StudyCell.study_id == study.id)
    first = session.scalars(query).one() + 1
    session.add_all(
        StudyCell(
            study_id=study.id,
            number=number,
            labels=cell.labels,
            parameters=storable_json(cell.parameters),
            seed=cell.seed,
            run_id=run.id,
        )
        for number, (cell, run) in enumerate(zip(cells, runs, strict=True), start=first)
    )
    session.flush()
    return runs


def find_or_submit_runs(
    session: Session, study: Study, kind: str, requests: Sequence[tuple[AnySpec, str]]
) -> list[Run]:
    """For each (spec, name) a reusable run of the study's owner, or a new run. The caller holds ``lock_studies``."""
    runs = find_reusable_runs(session, kind, [spec for spec, _ in requests], study.owner)
    for spec, name in requests:
        key = spec_hash(kind, spec)
        if key not in runs:
            priority = STUDY_PRIORITY if kind == "pretrain" else 0
            owner = study.owner
            runs[key] = submit(
                session, kind, spec, name, priority=priority, owner=owner, study_id=study.id, visible_to=owner
            )
    return [runs[spec_hash(kind, spec)] for spec, _ in requests]


def run_name(study: Study, labels: dict[str, str], seed: int) -> str:
    """Name of a run and of its encoder: letters, digits and dashes."""
    position = {axis["name"]: number for number, axis in enumerate(study.spec["axes"])}
    axes = sorted(labels, key=lambda axis: position.get(axis, len(position)))
    words = [study.name or study.id, *(labels[axis] for axis in axes), f"s{seed}"]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(words))[-100:].lstrip("._-")


def _run_record(run: Run) -> RunRecord:
    filled = {"result": run.result or {}, "inputs": run.inputs or {}}
    return RunRecord(id=run.id, state=run.state, spec=run.spec, reason=run.reason, progress=run.progress, **filled)


def _lock_study(session: Session, study: Study) -> None:
    """Lock studies, then read this one again."""
    study_id = study.id
    lock_studies(session)
    session.expire(study)
    get_study(session, study_id)


def _lock_with_status(session: Session, study: Study) -> StudyStatus:
    _lock_study(session, study)
    return study_statuses(session, [study])[study.id]


def _study_runs(session: Session, *conditions: ColumnElement[bool]) -> set[str]:
    """Runs of the cells that meet the conditions."""
    cells = session.execute(select(StudyCell.run_id, StudyCell.evaluation_id).where(*conditions)).tuples()
    return {run_id for cell in cells for run_id in cell if run_id is not None}


def _pin_encoders(session: Session, spec: StudySpec) -> StudySpec:
    """``spec`` with ids instead of the names of encoders, which newer encoders may get."""
    return replace_encoders(spec, partial(pin_reference, session))
