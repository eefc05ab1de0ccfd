"""Studies: validation of a submission, and views of a study, its table and its comparisons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from api.core.errors import Problem
from api.schemas.studies import StudyDetailView, StudyView, TrialRunView, TrialView
from lcl_core.common.errors import UserError
from lcl_core.common.paths import Root, resolve_allowed
from lcl_core.db import datasets, registry, studies
from lcl_core.db.models import Study
from lcl_core.specs.parsing import data_paths, dataset_fields, datasets_of, parse_as
from lcl_core.specs.study import StudySpec
from lcl_core.studies.results import SUCCEEDED, CellRecord, RunRecord
from lcl_core.studies.status import StudyStatus, study_status
from lcl_core.studies.table import build_table, compare_rows, table_columns, table_notes
from lcl_core.studies.trials import evaluate_specs, expand_study

if TYPE_CHECKING:
    from lcl_core.studies.paired_outcomes import Outcomes

Json = dict[str, Any]


def validate_study(session: Session, value: Json, roots: Sequence[Root]) -> StudySpec:
    """The parsed spec, everything that its runs read being registered or lying in ``roots``.

    Raises: Problem 422 with the field.
    """
    try:
        spec = parse_as(StudySpec, value)
        cells = expand_study(spec)
    except UserError as error:
        raise Problem(422, error.code, error.message, field=error.field) from error
    examinations = evaluate_specs(spec).items()
    read = {name: "pretrain.data.sources" for cell in cells for name in datasets_of(cell.spec)}
    read |= {name: f"{place}.{field}" for place, asked in examinations for field, name in dataset_fields(asked).items()}
    for name, field in read.items():
        _check_reference(field, datasets.get_dataset, session, name)
    for place, asked in examinations:
        for field, name in asked.further_encoders().items():
            _check_reference(f"{place}.{field}", registry.get_encoder, session, name)
        for field, path in data_paths(asked).items():
            _check_reference(f"{place}.{field}", resolve_allowed, path, roots)
    return spec


def _check_reference(field: str, look_up: Callable[..., object], *arguments: object) -> None:
    """Raises: Problem 422 about ``field`` for what ``look_up`` does not find or allow."""
    try:
        look_up(*arguments)
    except UserError as error:
        raise Problem(422, error.code, error.message, field=field) from error


def study_view(study: Study, standing: StudyStatus) -> StudyView:
    return StudyView(
        id=study.id,
        name=study.name,
        owner=study.owner,
        state=standing.state,
        question=study.spec.get("question", ""),
        counts=standing.counts,
        created_at=study.created_at,
        cancelled_at=study.cancelled_at,
    )


def study_detail(session: Session, study: Study) -> StudyDetailView:
    """Everything about one study as it stands."""
    spec, cells = studies.study_spec(study), studies.study_cells(session, study.id)
    cancelled = study.cancelled_at is not None
    view = study_view(study, study_status(spec, cells, cancelled=cancelled))
    return StudyDetailView(
        **view.model_dump(),
        spec=study.spec,
        cells=[_trial_view(cell, cancelled) for cell in cells],
        table=build_table(spec, cells, cancelled=cancelled),
        notes=table_notes(spec, cells),
    )


def study_table(session: Session, study: Study) -> Json:
    """The table alone."""
    cells = studies.study_cells(session, study.id)
    return build_table(studies.study_spec(study), cells, cancelled=study.cancelled_at is not None)


def study_title(study: Study) -> str:
    return f"{study.name or study.id}: {study.spec['question']}" if study.spec["question"] else study.name or study.id


def compare_study_rows(
    session: Session, study: Study, left: int, right: int, records_of: Callable[[str], Path]
) -> Json:
    """Two rows of the table, over seeds and over samples. Raises: Problem 404 for a row that is not there."""
    spec, cells = studies.study_spec(study), studies.study_cells(session, study.id)
    rows = build_table(spec, cells)["rows"]
    for number in (left, right):
        if number >= len(rows):
            raise Problem(404, "unknown_row", f"the table has {len(rows)} rows, counted from 0; there is no {number}")
    by_number = {cell.number: cell for cell in cells}
    from lcl_core.studies.paired_outcomes import question_outcomes  # numpy comes with it

    sides = [[by_number[number] for number in rows[row]["cells"]] for row in (left, right)]
    columns = table_columns(spec)
    metrics = [column.metric for column in columns]
    answers = [[question_outcomes(metrics, place) for place in _prediction_folders(side, records_of)] for side in sides]
    return {
        "left": rows[left]["labels"],
        "right": rows[right]["labels"],
        "seeds": {column.head: compare_rows(column.head, rows[left], rows[right]) for column in columns},
        "samples": {column.head: _compare_samples(answers, place) for place, column in enumerate(columns)},
    }


def _prediction_folders(cells: Sequence[CellRecord], records_of: Callable[[str], Path]) -> list[Path]:
    """Where the evaluations' answers are, as far as they are still there."""
    ended = [cell.evaluation.id for cell in cells if cell.evaluation and cell.evaluation.state == SUCCEEDED]
    places = [records_of(run_id) for run_id in ended]
    return [place for place in places if (place / "index.json").is_file()]


def _compare_samples(answers: Sequence[Sequence[Sequence[Outcomes]]], place: int) -> Json | None:
    from lcl_core.studies.paired_outcomes import compare_outcomes

    found = compare_outcomes(*([seed[place] for seed in side] for side in answers))
    return None if found is None else asdict(found)


def _trial_view(cell: CellRecord, cancelled: bool) -> TrialView:
    return TrialView(
        number=cell.number,
        labels=cell.labels,
        parameters=cell.parameters,
        seed=cell.seed,
        rung=cell.rung,
        state=cell.state(cancelled=cancelled),
        run=_trial_run_view(cell.run),
        evaluation=None if cell.evaluation is None else _trial_run_view(cell.evaluation),
    )


def _trial_run_view(run: RunRecord) -> TrialRunView:
    return TrialRunView(id=run.id, state=run.state, progress=run.progress, reason=run.reason, continues=run.continues)
