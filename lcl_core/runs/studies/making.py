"""New studies, and more of one that is there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from lcl_core.runs.database import now
from lcl_core.runs.ids import new_id
from lcl_core.runs.plain import plain
from lcl_core.runs.repeats import earlier, hash_of
from lcl_core.runs.states import ForbiddenTransition
from lcl_core.runs.studies.reading import study_cells, study_spec
from lcl_core.runs.studies.reuse import Wanted, reusable, runs_for
from lcl_core.runs.studies.turns import take_turn
from lcl_core.runs.tables import Run, Study, StudyCell
from lcl_core.specs import AdditionSpec, StudySpec
from lcl_core.studies.additions import extended
from lcl_core.studies.cells import Cell, expand
from lcl_core.studies.resolve import settled


def make_study(
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
    spec = settled(spec)
    cells = expand(spec)
    full = plain(spec.model_dump(mode="json"))
    body_hash = hash_of({"spec": full, "name": name})
    take_turn(session)
    if repeated := earlier(session, Study, owner, idempotency_key, body_hash):
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
    cells = expand(spec)
    there = reusable(session, "pretrain", [cell.spec for cell in cells], owner)
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
    take_turn(session)
    session.refresh(study)
    if study.cancelled_at is not None:
        raise ForbiddenTransition(study.id, "cancelled", "extended; resume it first", noun="study")
    spec = extended(study_spec(study), addition)
    known = {cell.key for cell in study_cells(session, study.id)}
    study.spec = plain(spec.model_dump(mode="json"))
    return add_cells(session, study, [cell for cell in expand(spec) if cell.key not in known])


def add_cells(
    session: Session, study: Study, cells: Sequence[Cell], continues: Sequence[str | None] | None = None
) -> list[Run]:
    """Rows for new cells, each with its run. The caller has the turn.

    Args:
        continues: for each cell the run that a new one of it goes on from.
    """
    query = select(func.coalesce(func.max(StudyCell.number), -1)).where(StudyCell.study_id == study.id)
    first = session.scalars(query).one() + 1
    wanted = [
        Wanted(cell.spec, run_name(study, cell.labels, cell.seed), parent)
        for cell, parent in zip(cells, continues or [None] * len(cells), strict=True)
    ]
    runs = runs_for(session, study, "pretrain", wanted)
    session.add_all(
        StudyCell(
            study_id=study.id,
            number=number,
            labels=cell.labels,
            parameters=plain(cell.parameters),
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
    words = [study.name or study.id, *(labels[axis] for axis in sorted(labels, key=_place(order))), f"s{seed}"]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(words))[-100:].lstrip("._-")


def _place(order: list[str]) -> Any:
    return lambda axis: order.index(axis) if axis in order else len(order)
