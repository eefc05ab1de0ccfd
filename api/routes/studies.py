"""Studies: submit, look, and what may be done to one."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Query, Response
from sqlalchemy.orm import Session

from api.deps import ContextDep, ReaderDep, SessionDep, Submitter, Viewer
from api.errors import REFUSALS
from api.routes.runs import IdempotencyKey
from api.studies import admit_study, study_detail, study_view
from api.study_models import StudyDetail, StudyPage, StudyPlan, StudySubmission, StudyView
from api.transactions import brief
from lcl_core.runs import store
from lcl_core.runs.tables import Study
from lcl_core.specs import AdditionSpec

router = APIRouter(prefix="/v1/studies", tags=["studies"], responses=REFUSALS)


@router.post("", status_code=202)
def submit(
    body: StudySubmission,
    caller: Submitter,
    context: ContextDep,
    session: SessionDep,
    after: BackgroundTasks,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> StudyView:
    """Queue a pre-training for every cell. The same Idempotency-Key and body give the same study.

    The owner's runs of the same spec that are there already are taken over. The evaluations follow by themselves.
    """
    spec = admit_study(session, body.spec, context.settings.roots)
    with context.quotas.more_runs(session, caller.owner):
        study = store.make_study(session, spec, body.name, caller.owner, idempotency_key)
    response.headers["location"] = f"/v1/studies/{study.id}"
    after.add_task(context.ringer.ring, [cell.run.id for cell in store.study_cells(session, study.id)])
    return _view(session, study)


@router.post("/plan")
def plan(body: StudySubmission, caller: Viewer, context: ContextDep, session: ReaderDep) -> StudyPlan:
    """What a submission would come to; nothing is queued."""
    spec = admit_study(session, body.spec, context.settings.roots)
    return StudyPlan(**store.plan_study(session, spec, caller.owner))


@router.get("")
@brief
def page(
    caller: Viewer,
    session: ReaderDep,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=100)] = None,
) -> StudyPage:
    """Newest first, the caller's own (of an admin: everybody's); ``next_cursor`` asks for the page after."""
    found = store.list_studies(session, owner=caller.sees, limit=limit, cursor=cursor)
    standings = store.standings(session, found.items)
    items = [study_view(study, standings[study.id]) for study in found.items]
    return StudyPage(items=items, next_cursor=found.next_cursor)


@router.get("/{study_id}")
def one(study_id: str, _: Viewer, session: ReaderDep) -> StudyDetail:
    """The spec, every cell with its runs, and the table so far."""
    return study_detail(session, store.get_study(session, study_id))


@router.post("/{study_id}/cancel")
def cancel(study_id: str, _: Submitter, session: SessionDep) -> StudyView:
    """Cancel its unfinished runs, but those that another study waits for; nothing more is submitted."""
    return _view(session, store.cancel_study(session, store.get_study(session, study_id)))


@router.post("/{study_id}/resume")
def resume(study_id: str, _: Submitter, context: ContextDep, session: SessionDep, after: BackgroundTasks) -> StudyView:
    """Queue its failed and cancelled runs again, each to go on from its last checkpoint; what succeeded stays."""
    study = store.get_study(session, study_id)
    with context.quotas.more_runs(session, study.owner):
        runs = store.resume_study(session, study)
    after.add_task(context.ringer.ring, runs)
    return _view(session, study)


@router.post("/{study_id}/extend")
def extend(
    study_id: str,
    body: AdditionSpec,
    _: Submitter,
    context: ContextDep,
    session: SessionDep,
    after: BackgroundTasks,
) -> StudyView:
    """Add seeds, variants of its axes, or trials of a random search. What it has is not run again."""
    study = store.get_study(session, study_id)
    with context.quotas.more_runs(session, study.owner):
        runs = store.extend_study(session, study, body)
    admit_study(session, study.spec, context.settings.roots)
    after.add_task(context.ringer.ring, [run.id for run in runs])
    return _view(session, study)


@router.delete("/{study_id}", status_code=204)
def delete(study_id: str, _: Submitter, session: SessionDep) -> None:
    """Remove an ended study; its runs, and the encoders they made, stay."""
    store.delete_study(session, store.get_study(session, study_id))


def _view(session: Session, study: Study) -> StudyView:
    return study_view(study, store.standings(session, [study])[study.id])
