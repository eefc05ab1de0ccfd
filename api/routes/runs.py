"""Runs: submit, look, and the verbs of the state machine."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Header, Query, Response

from api.admission import admit
from api.deps import ContextDep, ReaderDep, SessionDep, Submitter, Viewer
from api.models import RunPage, RunView, Submission, Tag
from api.views import run_view
from lcl_core.runs import store
from lcl_core.runs.states import State
from lcl_core.specs import Kind

router = APIRouter(prefix="/v1/runs", tags=["runs"])
IdempotencyKey = Annotated[str | None, Header(max_length=200, pattern=r"^[\x21-\x7e]+$")]


@router.post("", status_code=202)
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
    run = store.submit(session, body.kind, spec, body.name, body.tags, caller.owner, idempotency_key)
    response.headers["location"] = f"/v1/runs/{run.id}"
    after.add_task(context.doorbell.ring, run.id)
    return run_view(run)


@router.get("")
def page(
    _: Viewer,
    session: ReaderDep,
    kind: Kind | None = None,
    state: State | None = None,
    tag: Tag | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=100)] = None,
) -> RunPage:
    """Newest first; ``next_cursor`` asks for the page after."""
    wanted = None if state is None else state.value
    found = store.list_runs(session, kind=kind, state=wanted, tag=tag, limit=limit, cursor=cursor)
    return RunPage(items=[run_view(run) for run in found.items], next_cursor=found.next_cursor)


@router.get("/{run_id}")
def one(run_id: str, _: Viewer, session: ReaderDep) -> RunView:
    return run_view(store.get_run(session, run_id))


@router.post("/{run_id}/cancel")
def cancel(run_id: str, _: Submitter, session: SessionDep) -> RunView:
    """A queued run is cancelled at once; a running one writes a checkpoint first."""
    return run_view(store.request_cancel(session, run_id))


@router.post("/{run_id}/resume")
def resume(run_id: str, _: Submitter, context: ContextDep, session: SessionDep, after: BackgroundTasks) -> RunView:
    """Queue a failed or cancelled run again, to go on from its last checkpoint."""
    run = store.resume(session, run_id)
    after.add_task(context.doorbell.ring, run.id)
    return run_view(run)


@router.post("/{run_id}/retry")
def retry(run_id: str, _: Submitter, context: ContextDep, session: SessionDep, after: BackgroundTasks) -> RunView:
    """Queue a failed or cancelled run again, from the beginning."""
    run = store.retry(session, run_id)
    after.add_task(context.doorbell.ring, run.id)
    return run_view(run)


@router.delete("/{run_id}", status_code=204)
def delete(run_id: str, _: Submitter, context: ContextDep, session: SessionDep, after: BackgroundTasks) -> None:
    """Remove a finished run and its folder; the encoder or collection that it made stays."""
    store.delete(session, run_id)
    after.add_task(store.discard_run_dir, context.settings.runs_dir, run_id)
