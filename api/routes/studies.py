"""Studies: submission, pages, actions; their table, curves and comparisons."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, BackgroundTasks, Path, Query, Response
from sqlalchemy.orm import Session

from api.core.errors import ERROR_RESPONSES, documented_responses
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
from api.schemas.base import PageOf
from api.schemas.studies import (
    CurvesView,
    RefusedRunView,
    RowComparisonView,
    StudyDetailView,
    StudyPlanView,
    StudyResumptionView,
    StudySubmission,
    StudyView,
)
from api.services.studies import (
    check_study,
    compare_study_rows,
    parse_study,
    study_detail,
    study_table,
    study_title,
    study_view,
)
from lcl_core.db import runs, studies
from lcl_core.db.models import Study
from lcl_core.specs.study import AdditionSpec
from lcl_core.studies.results import curve_metrics, training_curves
from lcl_core.studies.table import FORMATS

router = APIRouter(prefix="/v1/studies", tags=["studies"], responses=ERROR_RESPONSES)
MetricName = Annotated[str, Query(max_length=100, description="metric of the training's metric lines")]
RowNumber = Annotated[int, Query(ge=0, lt=10_000, description="row of the table, from 0")]
TABLE_RESPONSES = documented_responses(*(media_type.partition(";")[0] for _write, media_type in FORMATS.values()))


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
        with state.run_quota.admit(session, principal.owner):
            study = studies.create_study(session, spec, body.name, principal.owner, idempotency_key)
    response.headers["location"] = f"/v1/studies/{study.id}"
    after.add_task(state.wakeups.wake, [cell.run.id for cell in studies.study_cells(session, study.id)])
    return _view(session, study)


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
    return study_detail(session, studies.get_study(session, study_id))


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
    with state.run_quota.admit(session, study.owner):
        queued, refused = studies.resume_study(session, study)
    after.add_task(state.wakeups.wake, queued)
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
    with state.run_quota.admit(session, study.owner):
        added = studies.extend_study(session, study, body)
    check_study(session, parse_study(study.spec), state.settings.roots)
    after.add_task(state.wakeups.wake, [run.id for run in added])
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
def table(
    study_id: StudyId,
    kind: Annotated[Literal["json", "csv", "md"], Path(description="format")],
    _: Viewer,
    session: ReadSessionDep,
) -> Response:
    """The present table."""
    study = studies.get_study(session, study_id)
    write, media_type = FORMATS[kind]
    return Response(write(study_table(session, study), study_title(study)), media_type=media_type)


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
    found = compare_study_rows(session, studies.get_study(session, study_id), left, right, state.evaluation_records)
    return RowComparisonView.model_validate(found)
