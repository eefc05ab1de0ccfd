"""Runs: submit, look, and the verbs of the state machine."""

from __future__ import annotations

from typing import Annotated

import structlog
from fastapi import APIRouter, BackgroundTasks, Header, Query, Response

from api.admission import admit
from api.deps import ContextDep, ReaderDep, SessionDep, Submitter, Viewer
from api.errors import REFUSALS
from api.models import RunPage, RunView, Submission, Tag
from api.transactions import brief
from api.views import run_view, run_views
from lcl_core.runs import store
from lcl_core.runs.states import State
from lcl_core.specs import Kind

log = structlog.get_logger(__name__)
router = APIRouter(prefix="/v1/runs", tags=["runs"], responses=REFUSALS)
IdempotencyKey = Annotated[str | None, Header(max_length=200, pattern=r"^[\x21-\x7e]+$")]


@router.post("", status_code=202)
@brief
def submit(
    body: Submission,
    caller: Submitter,
    context: ContextDep,
    session: SessionDep,
    after: BackgroundTasks,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> RunView:
    """Queue a run. The same Idempotency-Key and body give the same run."""
    spec = admit(session, body.kind, body.spec, context.settings.roots)
    store.check_names_of_run(session, body.kind, spec, body.name, caller.owner, admin=caller.sees is None)
    run = store.submit(
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
        sight=caller.sees,
    )
    response.headers["location"] = f"/v1/runs/{run.id}"
    after.add_task(context.ringer.ring, [run.id])
    log.info("run_submitted", run=run.id, kind=run.kind, owner=run.owner)
    return run_view(session, run)


@router.get("")
@brief
def page(
    caller: Viewer,
    session: ReaderDep,
    kind: Kind | None = None,
    state: State | None = None,
    tag: Tag | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=100)] = None,
) -> RunPage:
    """Newest first, the caller's own (of an admin: everybody's); ``next_cursor`` asks for the page after."""
    wanted = None if state is None else state.value
    owner = caller.sees
    found = store.list_runs(session, kind=kind, state=wanted, tag=tag, owner=owner, limit=limit, cursor=cursor)
    return RunPage(items=run_views(session, found.items), next_cursor=found.next_cursor)


@router.get("/{run_id}")
@brief
def one(run_id: str, _: Viewer, session: ReaderDep) -> RunView:
    return run_view(session, store.get_run(session, run_id))


@router.post("/{run_id}/cancel")
@brief
def cancel(run_id: str, _: Submitter, session: SessionDep) -> RunView:
    """A run that nobody works on is cancelled at once; a running one writes a checkpoint first."""
    return run_view(session, store.request_cancel(session, run_id))


@router.post("/{run_id}/pause")
@brief
def pause(run_id: str, _: Submitter, session: SessionDep) -> RunView:
    """Hold a run back, its place kept; a running one writes a checkpoint first and is ``pausing`` until then."""
    return run_view(session, store.pause(session, run_id))


@router.post("/{run_id}/unpause")
@brief
def unpause(run_id: str, _: Submitter, context: ContextDep, session: SessionDep, after: BackgroundTasks) -> RunView:
    """Let a paused run go on from its last checkpoint."""
    run = store.unpause(session, run_id)
    after.add_task(context.ringer.ring, [run.id])
    return run_view(session, run)


@router.post("/{run_id}/resume")
@brief
def resume(run_id: str, _: Submitter, context: ContextDep, session: SessionDep, after: BackgroundTasks) -> RunView:
    """Queue a failed or cancelled run again, to go on from its last checkpoint."""
    run = store.resume(session, run_id)
    after.add_task(context.ringer.ring, [run.id])
    return run_view(session, run)


@router.post("/{run_id}/retry")
@brief
def retry(run_id: str, _: Submitter, context: ContextDep, session: SessionDep, after: BackgroundTasks) -> RunView:
    """Queue a failed or cancelled run again, from the beginning."""
    run = store.retry(session, run_id)
    after.add_task(context.ringer.ring, [run.id])
    return run_view(session, run)


@router.delete("/{run_id}", status_code=204)
@brief
def delete(run_id: str, _: Submitter, context: ContextDep, session: SessionDep, after: BackgroundTasks) -> None:
    """Remove a finished run and its folder; the encoder or collection that it made stays."""
    store.delete(session, run_id)
    after.add_task(store.discard_run_dir, context.settings.runs_dir, run_id)
