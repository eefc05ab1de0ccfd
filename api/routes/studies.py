"""Studies: submit, look, and what may be done to one."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Query, Response
from sqlalchemy.orm import Session

from api.core.errors import ERROR_RESPONSES
from api.core.session import single_thread_endpoint
from api.deps import ReadSessionDep, StateDep, Submitter, Viewer, WriteSessionDep
from api.routes.runs import IdempotencyKey
from api.schemas.studies import StudyDetailView, StudyPageView, StudyPlanView, StudySubmission, StudyView
from api.services.studies import study_detail, study_view, validate_study
from lcl_core.db import studies
from lcl_core.db.models import Study
from lcl_core.specs.study import AdditionSpec

router = APIRouter(prefix="/v1/studies", tags=["studies"], responses=ERROR_RESPONSES)


@router.post("", status_code=202)
def submit(
    body: StudySubmission,
    caller: Submitter,
    context: StateDep,
    session: WriteSessionDep,
    after: BackgroundTasks,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> StudyView:
    """Queue a pre-training for every cell. The same Idempotency-Key and body give the same study.

    The owner's runs of the same spec that are there already are taken over. The evaluations follow by themselves.
    """
    spec = validate_study(session, body.spec, context.settings.roots)
    with context.quotas.admit_runs(session, caller.owner):
        study = studies.create_study(session, spec, body.name, caller.owner, idempotency_key)
    response.headers["location"] = f"/v1/studies/{study.id}"
    after.add_task(context.wakeups.wake, [cell.run.id for cell in studies.study_cells(session, study.id)])
    return _view(session, study)


@router.post("/plan")
def plan(body: StudySubmission, caller: Viewer, context: StateDep, session: ReadSessionDep) -> StudyPlanView:
    """What a submission would come to; nothing is queued."""
    spec = validate_study(session, body.spec, context.settings.roots)
    return StudyPlanView(**studies.plan_study(session, spec, caller.owner))


@router.get("")
@single_thread_endpoint
def page(
    caller: Viewer,
    session: ReadSessionDep,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=100)] = None,
) -> StudyPageView:
    """Newest first, the caller's own (of an admin: everybody's); ``next_cursor`` asks for the page after."""
    found = studies.list_studies(session, owner=caller.visible_owner, limit=limit, cursor=cursor)
    standings = studies.study_statuses(session, found.items)
    items = [study_view(study, standings[study.id]) for study in found.items]
    return StudyPageView(items=items, next_cursor=found.next_cursor)


@router.get("/{study_id}")
def one(study_id: str, _: Viewer, session: ReadSessionDep) -> StudyDetailView:
    """The spec, every cell with its runs, and the table so far."""
    return study_detail(session, studies.get_study(session, study_id))


@router.post("/{study_id}/cancel")
def cancel(study_id: str, _: Submitter, session: WriteSessionDep) -> StudyView:
    """Cancel its unfinished runs, but those that another study waits for; nothing more is submitted."""
    return _view(session, studies.cancel_study(session, studies.get_study(session, study_id)))


@router.post("/{study_id}/resume")
def resume(
    study_id: str, _: Submitter, context: StateDep, session: WriteSessionDep, after: BackgroundTasks
) -> StudyView:
    """Queue its failed and cancelled runs again, each to go on from its last checkpoint; what succeeded stays."""
    study = studies.get_study(session, study_id)
    with context.quotas.admit_runs(session, study.owner):
        runs = studies.resume_study(session, study)
    after.add_task(context.wakeups.wake, runs)
    return _view(session, study)


@router.post("/{study_id}/extend")
def extend(
    study_id: str,
    body: AdditionSpec,
    _: Submitter,
    context: StateDep,
    session: WriteSessionDep,
    after: BackgroundTasks,
) -> StudyView:
    """Add seeds, variants of its axes, or trials of a random search. What it has is not run again."""
    study = studies.get_study(session, study_id)
    with context.quotas.admit_runs(session, study.owner):
        runs = studies.extend_study(session, study, body)
    validate_study(session, study.spec, context.settings.roots)
    after.add_task(context.wakeups.wake, [run.id for run in runs])
    return _view(session, study)


@router.delete("/{study_id}", status_code=204)
def delete(study_id: str, _: Submitter, session: WriteSessionDep) -> None:
    """Remove an ended study; its runs, and the encoders they made, stay."""
    studies.delete_study(session, studies.get_study(session, study_id))


def _view(session: Session, study: Study) -> StudyView:
    return study_view(study, studies.study_statuses(session, [study])[study.id])
