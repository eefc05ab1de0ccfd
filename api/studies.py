"""Studies as the API shows them, and what a submission must pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from api.errors import Problem
from api.study_models import CellRun, CellView, StudyDetail, StudyView
from lcl_core.errors import UserError
from lcl_core.roots import Root, confined
from lcl_core.runs import store
from lcl_core.runs.tables import Study
from lcl_core.specs import StudySpec, dataset_fields, datasets_of, parse_as, places_of
from lcl_core.studies.cells import expand
from lcl_core.studies.columns import columns_of
from lcl_core.studies.facts import CellFacts, RunFacts
from lcl_core.studies.notes import notes_on
from lcl_core.studies.resolve import evaluations_of
from lcl_core.studies.standing import Standing, standing_of
from lcl_core.studies.states import SUCCEEDED
from lcl_core.studies.table import build_table, compare_rows

if TYPE_CHECKING:
    from lcl_core.studies.outcomes import Outcomes

Json = dict[str, Any]


def admit_study(session: Session, value: Json, roots: Sequence[Root]) -> StudySpec:
    """The parsed spec, everything that its runs read being registered or lying in ``roots``.

    Raises: Problem 422 with the field.
    """
    try:
        spec = parse_as(StudySpec, value)
        cells = expand(spec)
    except UserError as error:
        raise Problem(422, error.code, error.message, field=error.field) from error
    examinations = evaluations_of(spec).items()
    read = {name: "pretrain.data.sources" for cell in cells for name in datasets_of(cell.spec)}
    read |= {name: f"{place}.{field}" for place, asked in examinations for field, name in dataset_fields(asked).items()}
    for name, field in read.items():
        _check(field, store.get_dataset, session, name)
    for place, asked in examinations:
        for field, name in asked.further_encoders().items():
            _check(f"{place}.{field}", store.get_encoder, session, name)
        for field, path in places_of(asked).items():
            _check(f"{place}.{field}", confined, path, roots)
    return spec


def _check(field: str, look_up: Callable[..., object], *arguments: object) -> None:
    """Raises: Problem 422 about ``field`` for what ``look_up`` does not find or allow."""
    try:
        look_up(*arguments)
    except UserError as error:
        raise Problem(422, error.code, error.message, field=field) from error


def study_view(study: Study, standing: Standing) -> StudyView:
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


def study_detail(session: Session, study: Study) -> StudyDetail:
    """Everything about one study as it stands."""
    spec, cells = store.study_spec(study), store.study_cells(session, study.id)
    cancelled = study.cancelled_at is not None
    view = study_view(study, standing_of(spec, cells, cancelled=cancelled))
    return StudyDetail(
        **view.model_dump(),
        spec=study.spec,
        cells=[_cell_view(cell, cancelled) for cell in cells],
        table=build_table(spec, cells, cancelled=cancelled),
        notes=notes_on(spec, cells),
    )


def study_table(session: Session, study: Study) -> Json:
    """The table alone."""
    cells = store.study_cells(session, study.id)
    return build_table(store.study_spec(study), cells, cancelled=study.cancelled_at is not None)


def title_of(study: Study) -> str:
    return f"{study.name or study.id}: {study.spec['question']}" if study.spec["question"] else study.name or study.id


def compared_rows(session: Session, study: Study, left: int, right: int, records_of: Callable[[str], Path]) -> Json:
    """Two rows of the table, over seeds and over samples. Raises: Problem 404 for a row that is not there."""
    spec, cells = store.study_spec(study), store.study_cells(session, study.id)
    rows = build_table(spec, cells)["rows"]
    for number in (left, right):
        if number >= len(rows):
            raise Problem(404, "unknown_row", f"the table has {len(rows)} rows, counted from 0; there is no {number}")
    by_number = {cell.number: cell for cell in cells}
    from lcl_core.studies.outcomes import outcomes_of  # numpy comes with it

    sides = [[by_number[number] for number in rows[row]["cells"]] for row in (left, right)]
    columns = columns_of(spec)
    metrics = [column.metric for column in columns]
    answers = [[outcomes_of(metrics, place) for place in _records(side, records_of)] for side in sides]
    return {
        "left": rows[left]["labels"],
        "right": rows[right]["labels"],
        "seeds": {column.head: compare_rows(column.head, rows[left], rows[right]) for column in columns},
        "samples": {column.head: _over_samples(answers, place) for place, column in enumerate(columns)},
    }


def _records(cells: Sequence[CellFacts], records_of: Callable[[str], Path]) -> list[Path]:
    """Where the evaluations' answers are, as far as they are still there."""
    ended = [cell.evaluation.id for cell in cells if cell.evaluation and cell.evaluation.state == SUCCEEDED]
    places = [records_of(run_id) for run_id in ended]
    return [place for place in places if (place / "index.json").is_file()]


def _over_samples(answers: Sequence[Sequence[Sequence[Outcomes]]], place: int) -> Json | None:
    from lcl_core.studies.outcomes import compare_outcomes

    found = compare_outcomes(*([seed[place] for seed in side] for side in answers))
    return None if found is None else asdict(found)


def _cell_view(cell: CellFacts, cancelled: bool) -> CellView:
    return CellView(
        number=cell.number,
        labels=cell.labels,
        parameters=cell.parameters,
        seed=cell.seed,
        rung=cell.rung,
        state=cell.state(cancelled=cancelled),
        run=_run_view(cell.run),
        evaluation=None if cell.evaluation is None else _run_view(cell.evaluation),
    )


def _run_view(run: RunFacts) -> CellRun:
    return CellRun(id=run.id, state=run.state, progress=run.progress, reason=run.reason, continues=run.continues)
