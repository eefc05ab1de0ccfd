"""Runs: submit, look, and the verbs of the state machine."""

from __future__ import annotations

from typing import Annotated

import structlog
from fastapi import APIRouter, BackgroundTasks, Header, Query, Response

from api.core.errors import ERROR_RESPONSES
from api.core.session import single_thread_endpoint
from api.deps import ReadSessionDep, StateDep, Submitter, Viewer, WriteSessionDep
from api.schemas.base import RunPage, RunSubmission, RunView, Tag
from api.services.runs import run_view, run_views, validate_submission
from lcl_core.common import files
from lcl_core.db import registry, runs
from lcl_core.db import submit as db_submit
from lcl_core.db.states import State
from lcl_core.jobs import Kind

log = structlog.get_logger(__name__)
router = APIRouter(prefix="/v1/runs", tags=["runs"], responses=ERROR_RESPONSES)
IdempotencyKey = Annotated[str | None, Header(max_length=200, pattern=r"^[\x21-\x7e]+$")]


@router.post("", status_code=202)
@single_thread_endpoint
def submit(
    body: RunSubmission,
    caller: Submitter,
    context: StateDep,
    session: WriteSessionDep,
    after: BackgroundTasks,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> RunView:
    """Queue a run. The same Idempotency-Key and body give the same run."""
    spec = validate_submission(session, body.kind, body.spec, context.settings.roots)
    registry.check_run_names(session, body.kind, spec, body.name, caller.owner, admin=caller.visible_owner is None)
    with context.quotas.admit_runs(session, caller.owner, 1):
        run = db_submit.submit(
            session,
            body.kind,
            spec,
            body.name,
            body.tags,
            caller.owner,
            idempotency_key,
            priority=body.priority,
            max_attempts=body.max_attempts,
            resource=body.resource,
            after=body.after,
            sight=caller.visible_owner,
        )
    response.headers["location"] = f"/v1/runs/{run.id}"
    after.add_task(context.wakeups.wake, [run.id])
    log.info("run_submitted", run=run.id, kind=run.kind, owner=run.owner)
    return run_view(session, run)


@router.get("")
@single_thread_endpoint
def page(
    caller: Viewer,
    session: ReadSessionDep,
    kind: Kind | None = None,
    state: State | None = None,
    tag: Tag | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=100)] = None,
) -> RunPage:
    """Newest first, the caller's own (of an admin: everybody's); ``next_cursor`` asks for the page after."""
    wanted = None if state is None else state.value
    owner = caller.visible_owner
    found = runs.list_runs(session, kind=kind, state=wanted, tag=tag, owner=owner, limit=limit, cursor=cursor)
    return RunPage(items=run_views(session, found.items), next_cursor=found.next_cursor)


@router.get("/{run_id}")
@single_thread_endpoint
def one(run_id: str, _: Viewer, session: ReadSessionDep) -> RunView:
    return run_view(session, runs.get_run(session, run_id))


@router.post("/{run_id}/cancel")
@single_thread_endpoint
def cancel(run_id: str, _: Submitter, session: WriteSessionDep) -> RunView:
    """A run that nobody works on is cancelled at once; a running one writes a checkpoint first."""
    return run_view(session, runs.cancel_run(session, run_id))


@router.post("/{run_id}/pause")
@single_thread_endpoint
def pause(run_id: str, _: Submitter, session: WriteSessionDep) -> RunView:
    """Hold a run back, its place kept; a running one writes a checkpoint first and is ``pausing`` until then."""
    return run_view(session, runs.pause_run(session, run_id))


@router.post("/{run_id}/unpause")
@single_thread_endpoint
def unpause(run_id: str, _: Submitter, context: StateDep, session: WriteSessionDep, after: BackgroundTasks) -> RunView:
    """Let a paused run go on from its last checkpoint."""
    run = runs.unpause_run(session, run_id)
    after.add_task(context.wakeups.wake, [run.id])
    return run_view(session, run)


@router.post("/{run_id}/resume")
@single_thread_endpoint
def resume(run_id: str, _: Submitter, context: StateDep, session: WriteSessionDep, after: BackgroundTasks) -> RunView:
    """Queue a failed or cancelled run again, to go on from its last checkpoint."""
    with context.quotas.admit_runs(session, runs.get_run(session, run_id).owner, 1):
        run = runs.resume_run(session, run_id)
    after.add_task(context.wakeups.wake, [run.id])
    return run_view(session, run)


@router.post("/{run_id}/retry")
@single_thread_endpoint
def retry(run_id: str, _: Submitter, context: StateDep, session: WriteSessionDep, after: BackgroundTasks) -> RunView:
    """Queue a failed or cancelled run again, from the beginning."""
    with context.quotas.admit_runs(session, runs.get_run(session, run_id).owner, 1):
        run = runs.retry_run(session, run_id)
    after.add_task(context.wakeups.wake, [run.id])
    return run_view(session, run)


@router.delete("/{run_id}", status_code=204)
@single_thread_endpoint
def delete(run_id: str, _: Submitter, context: StateDep, session: WriteSessionDep, after: BackgroundTasks) -> None:
    """Remove a finished run and its folder; the encoder or collection that it made stays."""
    runs.delete_run(session, run_id)
    after.add_task(files.discard_run_dir, context.settings.runs_dir, run_id)
