"""Studies: validation of a submission, and views of a study, its table and its comparisons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from api.core.errors import Problem
from api.schemas.studies import StudyDetailView, StudyView, TrialRunView, TrialView
from api.services.runs import problem_of_field
from lcl_core.common.paths import Root, resolve_allowed
from lcl_core.db import datasets, registry, studies
from lcl_core.db.models import Study
from lcl_core.specs.parsing import parse_as
from lcl_core.specs.study import StudySpec
from lcl_core.studies.results import SUCCEEDED, CellRecord, StudyStatus
from lcl_core.studies.table import build_table, compare_rows, contents_notes, table_notes
from lcl_core.studies.trials import evaluate_spec, expand_study, resolve_presets

Json = dict[str, Any]


def parse_study(value: Json) -> StudySpec:
    """The spec with its presets filled in. Raises: Problem 422 with the field."""
    with problem_of_field():
        return resolve_presets(parse_as(StudySpec, value))


def check_study(session: Session, spec: StudySpec, roots: Sequence[Root]) -> None:
    """Check that everything the runs of a study read is registered or below ``roots``.

    Raises: Problem 422 with the field.
    """
    with problem_of_field():
        trials = expand_study(spec)
    read: dict[tuple[str, str], Callable[[], object]] = {}  # lookup by field and name or path
    for trial in trials:
        needed = trial.spec.references()
        for name in needed.datasets.values():
            read["pretrain.data.sources", name] = partial(datasets.get_dataset, session, name)
        for field, name in needed.encoders.items():
            read[f"pretrain.{field}", name] = partial(registry.get_encoder, session, name)
        for field, path in needed.paths.items():
            read[f"pretrain.{field}", path] = partial(resolve_allowed, path, roots)
    needed = evaluate_spec(spec).references()
    for field, name in needed.datasets.items():
        read[f"evaluate.{field}", name] = partial(datasets.get_dataset, session, name)
    for field, name in needed.further_encoders.items():
        read[f"evaluate.{field}", name] = partial(registry.get_encoder, session, name)
    for field, path in needed.paths.items():
        read[f"evaluate.{field}", path] = partial(resolve_allowed, path, roots)
    for (field, _), find in read.items():
        with problem_of_field(field):
            find()


def study_view(study: Study, status: StudyStatus) -> StudyView:
    return StudyView(
        id=study.id,
        name=study.name,
        owner=study.owner,
        state=status.state,
        question=study.spec.get("question", ""),
        counts=status.counts,
        created_at=study.created_at,
        cancelled_at=study.cancelled_at,
    )


def study_detail(session: Session, study: Study) -> StudyDetailView:
    """The study with its trials, table and notes."""
    spec, trials = studies.study_spec(study), studies.study_cells(session, study.id)
    cancelled = study.cancelled_at is not None
    view = study_view(study, studies.study_statuses(session, [study])[study.id])
    return StudyDetailView(
        **view.model_dump(),
        spec=study.spec,
        cells=[_trial_view(trial, cancelled) for trial in trials],
        table=build_table(spec, trials, cancelled=cancelled),
        notes=table_notes(spec, trials),
    )


def study_table(session: Session, study: Study) -> Json:
    trials = studies.study_cells(session, study.id)
    return build_table(studies.study_spec(study), trials, cancelled=study.cancelled_at is not None)


def study_title(study: Study) -> str:
    return f"{study.name or study.id}: {study.spec['question']}" if study.spec["question"] else study.name or study.id


def compare_study_rows(
    session: Session, study: Study, left: int, right: int, records_of: Callable[[str], Path]
) -> Json:
    """Two rows of the table, compared over seeds and over samples. Closes the session: predictions are read for long.

    Raises: Problem 404 for an unknown row.
    """
    from api.services.paired_tests import sample_tests  # numpy

    spec, trials = studies.study_spec(study), studies.study_cells(session, study.id)
    session.close()
    rows = build_table(spec, trials)["rows"]
    for number in (left, right):
        if number >= len(rows):
            raise Problem(404, "not_found", f"the table has {len(rows)} rows, counted from 0; there is no {number}")
    by_number = {trial.number: trial for trial in trials}
    sides = [[by_number[number] for number in rows[row]["cells"]] for row in (left, right)]
    evaluated = [
        [records_of(cell.evaluation.id) for cell in side if cell.evaluation and cell.evaluation.state == SUCCEEDED]
        for side in sides
    ]
    return {
        "left": rows[left]["labels"],
        "right": rows[right]["labels"],
        "seeds": {metric.name: compare_rows(metric.name, rows[left], rows[right]) for metric in spec.metrics},
        "samples": sample_tests(spec.metrics, evaluated),
        "notes": contents_notes([cell for side in sides for cell in side]),
    }


def _trial_view(trial: CellRecord, cancelled: bool) -> TrialView:
    evaluation = trial.evaluation
    return TrialView(
        number=trial.number,
        labels=trial.labels,
        parameters=trial.parameters,
        seed=trial.seed,
        state=trial.state(cancelled=cancelled),
        run=TrialRunView.model_validate(trial.run, from_attributes=True),
        evaluation=evaluation and TrialRunView.model_validate(evaluation, from_attributes=True),
    )
