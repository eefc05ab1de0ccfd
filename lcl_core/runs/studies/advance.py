"""What a study needs next is submitted: an evaluation of each encoder that came out, a halving's next rung.

Driven by the database alone. Every worker's reaper asks ``studies_due`` and calls ``advance_study``; both may be done
at any time, by any number at once, and again after a crash: one transaction submits a run and notes that it did.
"""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from lcl_core.errors import UserError
from lcl_core.runs.states import FINISHED, State
from lcl_core.runs.studies.making import add_cells, run_name
from lcl_core.runs.studies.reading import study_cells, study_spec
from lcl_core.runs.studies.reuse import Wanted, runs_for
from lcl_core.runs.studies.turns import take_turn
from lcl_core.runs.tables import Run, Study, StudyCell
from lcl_core.specs import StudySpec
from lcl_core.studies.cells import Cell
from lcl_core.studies.facts import CellFacts
from lcl_core.studies.halving import continuable, promoted
from lcl_core.studies.resolve import evaluation_of


def studies_due(session: Session) -> list[str]:
    """Ids of the studies for which ``advance_study`` may find something to do; only reads."""
    waiting = (
        select(StudyCell.study_id)
        .join(Run, Run.id == StudyCell.run_id)
        .where(StudyCell.evaluation_id.is_(None), Run.state == State.SUCCEEDED.value)
    )
    examined = select(Study.id).where(Study.cancelled_at.is_(None), Study.id.in_(waiting))
    ready = [study.id for study in _climbing(session) if _promotes(session, study)]
    return sorted({*session.scalars(examined), *ready})


def advance_study(session: Session, study_id: str) -> list[str]:
    """Submit what comes next. Returns: ids of the runs that are queued now; none when there was nothing to do.

    Raises: UserError when a newer version no longer understands the study's spec.
    """
    take_turn(session)
    study = session.get(Study, study_id, populate_existing=True)
    if study is None or study.cancelled_at is not None:
        return []
    spec = study_spec(study)
    runs = _examine(session, study, spec)
    cells = study_cells(session, study_id)
    more = promoted(spec, cells)
    runs += add_cells(session, study, more, [_parent(spec, cells, cell) for cell in more])
    return [run.id for run in runs if run.state == State.QUEUED.value]


def _climbing(session: Session) -> list[Study]:
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


def _promotes(session: Session, study: Study) -> bool:
    """True too for a spec that is not understood any more: ``advance_study`` says what is wrong with it."""
    try:
        return bool(promoted(study_spec(study), study_cells(session, study.id)))
    except UserError:
        return True


def _examine(session: Session, study: Study, spec: StudySpec) -> list[Run]:
    """An evaluation for every encoder that came out and has none."""
    query = (
        select(StudyCell, Run)
        .join(Run, Run.id == StudyCell.run_id)
        .where(
            StudyCell.study_id == study.id, StudyCell.evaluation_id.is_(None), Run.state == State.SUCCEEDED.value
        )
        .order_by(StudyCell.number)
    )
    found = session.execute(query).tuples().all()
    wanted = [
        Wanted(evaluation_of(spec, cell.rung, str(run.encoder_id)), run_name(study, cell.labels, cell.seed))
        for cell, run in found
    ]
    evaluations = runs_for(session, study, "evaluate", wanted)
    for (cell, _), evaluation in zip(found, evaluations, strict=True):
        cell.evaluation_id = evaluation.id
    session.flush()
    return evaluations


def _parent(spec: StudySpec, cells: list[CellFacts], cell: Cell) -> str | None:
    """The run of the same trial and seed one rung below, if the new one may go on from it."""
    if not continuable(spec, cell):
        return None
    below = (frozenset(cell.labels.items()), cell.seed, cell.rung - 1)
    return next((each.run.id for each in cells if each.key == below), None)
