"""Studies: submission, pages, actions; their table, curves and comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, BackgroundTasks, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from api.core.errors import ERROR_RESPONSES, Problem, documented_responses, problem_of_field
from api.core.models import Line, PageOf, RequestModel, request_example
from api.deps import (
    Cursor,
    IdempotencyKey,
    PageLimit,
    ReadSessionDep,
    StateDep,
    StudyId,
    Submitter,
    Viewer,
    WriteSessionDep,
    in_thread_pool,
)
from api.routes.runs import check_references
from api.services.comparisons import sample_tests
from lcl_core.common.paths import Root
from lcl_core.db import runs, studies
from lcl_core.db.models import Study
from lcl_core.estimate.report import Range
from lcl_core.specs.base import References
from lcl_core.specs.parsing import parse_as
from lcl_core.specs.study import AdditionSpec, StudySpec
from lcl_core.studies.results import SUCCEEDED, CellRecord, StudyStatus, curve_metrics, training_curves
from lcl_core.studies.table import FORMATS, build_table, compare_rows, contents_notes, table_notes
from lcl_core.studies.trials import evaluate_spec, expand_study, resolve_presets

router = APIRouter(prefix="/v1/studies", tags=["studies"], responses=ERROR_RESPONSES)
MetricName = Annotated[str, Query(max_length=100, description="metric of the training's metric lines")]
RowNumber = Annotated[int, Query(ge=0, lt=10_000, description="row of the table, from 0")]
TABLE_RESPONSES = documented_responses(*(media_type.partition(";")[0] for _write, media_type in FORMATS.values()))


class StudySubmission(RequestModel):
    model_config = ConfigDict(json_schema_extra=request_example(spec={"preset": "loss_ablation", "seeds": [0]}))

    spec: dict[str, Any] = Field(description="as GET /v1/specs/study describes", examples=[{"preset": "table1"}])
    name: Line | None = Field(None, description="shown in lists, and the start of the names of its runs")


class StudyPlanView(BaseModel):
    """What a study would come to."""

    rows: int = Field(description="lines of the table, at first")
    seeds: int = Field(description="seeds of each row")
    cells: int = Field(description="pre-trainings, each followed by an evaluation")
    reused: int = Field(description="of them there already, and not run again")
    seconds: Range | None = Field(
        description="of all new pre-trainings, one after another; without evaluations; null: none, or not estimated"
    )
    certainty: Literal["measured", "scaled", "assumed"] | None = Field(description="of seconds, as of a run's estimate")


class StudyView(BaseModel):
    id: str = Field(description="id of the study")
    name: str | None = Field(description="as submitted")
    owner: str = Field(description="owner of the key that submitted it")
    state: str = Field(description="follows from the states of its runs")
    question: str = Field(description="what the study is to answer")
    counts: dict[str, int] = Field(description="cells by state")
    created_at: datetime = Field(description="when it was submitted")
    cancelled_at: datetime | None = Field(description="when it was cancelled")


class RefusedRunView(BaseModel):
    """A run of a study that was not resumed."""

    id: str = Field(description="id of the run")
    code: str = Field(description="of the error: timeout_reached")
    message: str = Field(description="why, and how to resume it by itself")


class StudyResumptionView(StudyView):
    not_resumed: list[RefusedRunView] = Field(description="runs that need a higher timeout_seconds")


class TrialRunView(BaseModel):
    """A run of a cell, in short."""

    id: str = Field(description="id of the run")
    state: str = Field(description="state of the run")
    progress: dict[str, Any] | None = Field(description="its last line of metrics")
    reason: dict[str, Any] | None = Field(description="why it failed")


class TrialView(BaseModel):
    number: int = Field(description="of the trial, from 0")
    labels: dict[str, str] = Field(description="its variant of each axis")
    parameters: dict[str, Any] = Field(description="values drawn by a random search")
    seed: int = Field(description="its seed")
    state: str = Field(description="state of its runs together")
    run: TrialRunView
    evaluation: TrialRunView | None = Field(description="the evaluation of its encoder")


class StudyDetailView(StudyView):
    spec: dict[str, Any] = Field(description="with the preset and all defaults filled in")
    cells: list[TrialView] = Field(description="all trials")
    table: dict[str, Any] = Field(description="as it stands now; the same as table.json")
    notes: list[str] = Field(description="what a reader of the table must know")


class CurveView(BaseModel):
    labels: dict[str, str] = Field(description="its variant of each axis")
    points: list[list[float]] = Field(description="step, and mean, lowest and highest over the seeds")


class CurvesView(BaseModel):
    value: str = Field(description="the metric")
    values: list[str] = Field(description="other metrics that have curves")
    rows: list[CurveView] = Field(description="one curve per row of the table")


class RowComparisonView(BaseModel):
    """Row ``right`` minus row ``left``, metric by metric; None where it cannot be said."""

    left: dict[str, str] = Field(description="labels of the row")
    right: dict[str, str] = Field(description="labels of the row")
    seeds: dict[str, dict[str, Any] | None] = Field(description="paired over the seeds that both have")
    samples: dict[str, dict[str, Any] | None] = Field(description="paired over the samples of both")
    notes: list[str] = Field([], description="about datasets of which runs of the two rows read different contents")


@router.post("", summary="Submit study", status_code=202)
def submit(
    body: StudySubmission,
    principal: Submitter,
    state: StateDep,
    session: WriteSessionDep,
    after: BackgroundTasks,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> StudyView:
    """Queue a pre-training for every trial. The same Idempotency-Key and body give the same study.

    The owner's runs of the same spec that are there already are taken over. The evaluations follow by themselves.
    """
    spec = parse_study(body.spec)
    # before all checks of what is there now: a repeated request gets its study whatever has changed since
    study = studies.find_repeated_study(session, spec, body.name, principal.owner, idempotency_key)
    if study is None:
        check_study(session, spec, state.settings.roots)
        with state.admit_runs(session, principal.owner):
            study = studies.create_study(session, spec, body.name, principal.owner, idempotency_key)
    response.headers["location"] = f"/v1/studies/{study.id}"
    after.add_task(state.wake, [cell.run.id for cell in studies.study_cells(session, study.id)])
    return _view(session, study)


def parse_study(value: dict[str, Any]) -> StudySpec:
    """The spec with its presets filled in. Raises: Problem 422 with the field."""
    with problem_of_field():
        return resolve_presets(parse_as(StudySpec, value))


def check_study(session: Session, spec: StudySpec, roots: Sequence[Root]) -> None:
    """Check that everything the runs of a study read is registered or below ``roots``.

    Raises: Problem 422 with the field.
    """
    with problem_of_field():
        needed = [trial.spec.references() for trial in expand_study(spec)]
    distinct: list[References] = []
    for each in needed:
        if each not in distinct:
            distinct.append(each)
    for each in distinct:
        check_references(session, each, roots, "pretrain.")
    evaluated = evaluate_spec(spec).references()
    check_references(session, replace(evaluated, encoders=evaluated.further_encoders), roots, "evaluate.")


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


@router.post("/plan", summary="Plan study")
def plan(body: StudySubmission, principal: Viewer, state: StateDep, session: ReadSessionDep) -> StudyPlanView:
    """Number of runs of a submission, and the time of its pre-trainings; nothing is queued."""
    spec = parse_study(body.spec)
    check_study(session, spec, state.settings.roots)
    return StudyPlanView(**studies.plan_study(session, spec, principal.owner, principal.visible_owner))


@router.get("", summary="List studies")
def page(principal: Viewer, session: ReadSessionDep, limit: PageLimit = 50, cursor: Cursor = None) -> PageOf[StudyView]:
    """Newest first, the caller's own (for an admin: all owners'); ``next_cursor`` is the cursor of the next page."""
    rows = studies.list_studies(session, owner=principal.visible_owner, limit=limit, cursor=cursor)
    statuses = studies.study_statuses(session, rows.items)
    items = [study_view(study, statuses[study.id]) for study in rows.items]
    return PageOf[StudyView](items=items, next_cursor=rows.next_cursor)


@router.get("/{study_id}", summary="Get study")
def one(study_id: StudyId, _: Viewer, session: ReadSessionDep) -> StudyDetailView:
    """The spec, all trials with their runs, and the present table."""
    study = studies.get_study(session, study_id)
    spec, trials = studies.study_spec(study), studies.study_cells(session, study.id)
    cancelled = study.cancelled_at is not None
    return StudyDetailView(
        **_view(session, study).model_dump(),
        spec=study.spec,
        cells=[_trial_view(trial, cancelled) for trial in trials],
        table=build_table(spec, trials, cancelled=cancelled),
        notes=table_notes(spec, trials),
    )


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


@router.post("/{study_id}/cancel", summary="Cancel study")
def cancel(study_id: StudyId, _: Submitter, session: WriteSessionDep) -> StudyView:
    """Cancel its unfinished runs, except those of another study too; nothing more is submitted."""
    return _view(session, studies.cancel_study(session, studies.get_study(session, study_id)))


@router.post("/{study_id}/resume", summary="Resume study")
def resume(
    study_id: StudyId, _: Submitter, state: StateDep, session: WriteSessionDep, after: BackgroundTasks
) -> StudyResumptionView:
    """Queue its failed and cancelled runs again, each to continue from its last checkpoint.

    ``not_resumed`` has the runs that have used up their ``timeout_seconds``; 409 ``timeout_reached`` if all have.
    """
    study = studies.get_study(session, study_id)
    with state.admit_runs(session, study.owner):
        queued, refused = studies.resume_study(session, study)
    after.add_task(state.wake, queued)
    views = [RefusedRunView(id=run_id, code=error.code, message=error.message) for run_id, error in refused.items()]
    return StudyResumptionView(**_view(session, study).model_dump(), not_resumed=views)


@router.post("/{study_id}/extend", summary="Extend study")
def extend(
    study_id: StudyId,
    body: AdditionSpec,
    _: Submitter,
    state: StateDep,
    session: WriteSessionDep,
    after: BackgroundTasks,
) -> StudyView:
    """Add seeds, variants of its axes, or trials of a random search. Existing trials are not run again."""
    study = studies.get_study(session, study_id)
    with state.admit_runs(session, study.owner):
        added = studies.extend_study(session, study, body)
    check_study(session, parse_study(study.spec), state.settings.roots)
    after.add_task(state.wake, [run.id for run in added])
    return _view(session, study)


@router.delete("/{study_id}", summary="Delete study", status_code=204)
def delete(study_id: StudyId, _: Submitter, session: WriteSessionDep) -> None:
    """Delete a finished study, but not its runs and encoders."""
    studies.delete_study(session, studies.get_study(session, study_id))


def _view(session: Session, study: Study) -> StudyView:
    return study_view(study, studies.study_statuses(session, [study])[study.id])


@router.get(
    "/{study_id}/table.{kind}", summary="Get table of study", response_class=Response, responses=TABLE_RESPONSES
)
def table_file(
    study_id: StudyId,
    kind: Annotated[Literal["json", "csv"], Path(description="format")],
    _: Viewer,
    session: ReadSessionDep,
) -> Response:
    """The present table."""
    study = studies.get_study(session, study_id)
    trials = studies.study_cells(session, study.id)
    table = build_table(studies.study_spec(study), trials, cancelled=study.cancelled_at is not None)
    title, question = study.name or study.id, study.spec["question"]
    write, media_type = FORMATS[kind]
    return Response(write(table, f"{title}: {question}" if question else title), media_type=media_type)


@router.get("/{study_id}/curves", summary="Get curves of study")
def curves(study_id: StudyId, _: Viewer, session: ReadSessionDep, value: MetricName = "loss") -> CurvesView:
    """A training metric over steps, one curve per row of the table."""
    study = studies.get_study(session, study_id)
    cells = studies.study_cells(session, study.id)
    lines = runs.thinned_metrics(session, [cell.run.id for cell in cells])
    rows = training_curves(cells, lines, value)
    return CurvesView.model_validate({"value": value, "values": curve_metrics(lines), "rows": rows})


@router.get("/{study_id}/compare", summary="Compare rows of study")
@in_thread_pool("slow")
def compare(
    study_id: StudyId, _: Viewer, state: StateDep, session: ReadSessionDep, left: RowNumber, right: RowNumber
) -> RowComparisonView:
    """Two rows of the table by their numbers, counted from 0: paired tests over seeds and over samples."""
    study = studies.get_study(session, study_id)
    spec, trials = studies.study_spec(study), studies.study_cells(session, study.id)
    session.close()  # no connection is held while predictions are read
    rows = build_table(spec, trials)["rows"]
    for number in (left, right):
        if number >= len(rows):
            raise Problem(404, "not_found", f"the table has {len(rows)} rows, counted from 0; there is no {number}")
    by_number = {trial.number: trial for trial in trials}
    sides = [[by_number[number] for number in rows[row]["cells"]] for row in (left, right)]
    evaluations = [
        [cell.evaluation.id for cell in side if cell.evaluation and cell.evaluation.state == SUCCEEDED]
        for side in sides
    ]
    return RowComparisonView(
        left=rows[left]["labels"],
        right=rows[right]["labels"],
        seeds={metric.name: compare_rows(metric.name, rows[left], rows[right]) for metric in spec.metrics},
        samples=sample_tests(spec.metrics, [[state.evaluation_records(run) for run in side] for side in evaluations]),
        notes=contents_notes([cell for side in sides for cell in side]),
    )
