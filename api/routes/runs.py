"""Runs: submission, pages, transitions of the state machine; their metrics, log, events and artifacts.

Also schemas and presets of specs, and estimates of runs.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Literal

import structlog
from fastapi import APIRouter, BackgroundTasks, Header, Path, Query, Response
from sse_starlette.sse import EventSourceResponse

from api.core.errors import ERROR_RESPONSES, Problem, documented_responses
from api.deps import (
    Cursor,
    IdempotencyKey,
    PageLimit,
    ReadSessionDep,
    RunId,
    StateDep,
    Submitter,
    Viewer,
    WriteSessionDep,
    in_thread_pool,
)
from api.schemas.base import ItemList, ListOf, PageOf
from api.schemas.runs import (
    ArtifactView,
    EstimateRequest,
    EstimateView,
    LogChunk,
    RunAnnotation,
    RunResumption,
    RunSubmission,
    RunView,
    SpecSummary,
    SpecView,
)
from api.services.run_events import stream_events
from api.services.run_files import OCTET_STREAM, RunFiles
from api.services.runs import (
    metrics_json,
    run_view,
    run_views,
    submit_run,
    validate_submission,
)
from lcl_core.common import files
from lcl_core.db import runs
from lcl_core.db import submit as db_submit
from lcl_core.db.states import State
from lcl_core.jobs import Kind
from lcl_core.specs.base import Tag, presets
from lcl_core.specs.parsing import SPECS
from lcl_core.specs.study import StudySpec

log = structlog.get_logger(__name__)
router = APIRouter(prefix="/v1/runs", tags=["runs"], responses=ERROR_RESPONSES)
specs_router = APIRouter(prefix="/v1/specs", tags=["specs"], responses=ERROR_RESPONSES)
SPEC_MODELS = {**SPECS, "study": StudySpec}
LineNumber = Annotated[int, Query(ge=0, lt=2**63, description="id of the last line that is there already")]
LogOffset = Annotated[int, Query(ge=0, lt=2**63, description="bytes to skip")]
SpecKind = Annotated[str, Path(description="kind of run, or study", examples=["pretrain"])]
Step = Annotated[int, Query(ge=0, lt=2**63, description="only steps after this one")]  # range of the column
DOWNLOAD = documented_responses(OCTET_STREAM) | documented_responses(
    OCTET_STREAM, status=206, description="The requested range"
)


@router.post("", summary="Submit run", status_code=202)
def submit(
    body: RunSubmission,
    principal: Submitter,
    state: StateDep,
    session: WriteSessionDep,
    after: BackgroundTasks,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> RunView:
    """Queue a run. The same Idempotency-Key and body give the same run."""
    run = submit_run(state, session, body, principal, idempotency_key)
    response.headers["location"] = f"/v1/runs/{run.id}"
    after.add_task(state.wakeups.wake, [run.id])
    log.info("run_submitted", run=run.id, kind=run.kind, owner=run.owner)
    return run_view(session, run)


@router.get("", summary="List runs")
def page(
    principal: Viewer,
    session: ReadSessionDep,
    kind: Annotated[Kind | None, Query(description="only runs of this kind")] = None,
    state: Annotated[State | None, Query(description="only runs in this state")] = None,
    tag: Annotated[Tag | None, Query(description="only runs with this tag")] = None,
    name: Annotated[
        str | None, Query(min_length=1, max_length=100, description="only runs whose name contains this, in any case")
    ] = None,
    limit: PageLimit = 50,
    cursor: Cursor = None,
) -> PageOf[RunView]:
    """Newest first, the caller's own (for an admin: all owners'); ``next_cursor`` is the cursor of the next page."""
    state_name = None if state is None else state.value
    filters = {"kind": kind, "state": state_name, "tag": tag, "name": name, "owner": principal.visible_owner}
    rows = runs.list_runs(session, **filters, limit=limit, cursor=cursor)
    return PageOf[RunView](items=run_views(session, rows.items), next_cursor=rows.next_cursor)


@router.get("/{run_id}", summary="Get run")
def one(run_id: RunId, _: Viewer, session: ReadSessionDep) -> RunView:
    return run_view(session, runs.get_run(session, run_id))


@router.patch("/{run_id}", summary="Annotate run")
def annotate(run_id: RunId, body: RunAnnotation, _: Submitter, session: WriteSessionDep) -> RunView:
    """Replace tags or notes of a run, in any state. Fields that the body lacks stay as they are."""
    return run_view(session, runs.annotate_run(session, run_id, body.model_dump(exclude_unset=True)))


@router.post("/{run_id}/{action}", summary="Cancel, pause, resume or retry run")
def act(
    run_id: RunId,
    action: Annotated[Literal["cancel", "pause", "resume", "retry"], Path(description="what happens to the run")],
    _: Submitter,
    state: StateDep,
    session: WriteSessionDep,
    after: BackgroundTasks,
    body: RunResumption | None = None,
) -> RunView:
    """A queued run is cancelled or paused at once; a running one writes a checkpoint first.

    A paused run keeps its queue position. ``resume`` queues a paused, failed or cancelled run again, to continue from
    its last checkpoint; one that has used up its ``timeout_seconds`` needs a higher limit in the body (409
    ``timeout_reached``). ``retry`` queues a failed or cancelled run again, from the beginning.
    """
    run = runs.get_run(session, run_id)
    if body is not None and action != "resume":
        raise Problem(422, "bad_request", f"{action} takes no body; resume does")
    if action == "cancel":
        return run_view(session, runs.cancel_run(session, run_id))
    if action == "pause":
        return run_view(session, runs.pause_run(session, run_id))
    if action == "resume" and run.state == State.PAUSED:
        run = runs.unpause_run(session, run_id)
    else:
        with state.run_quota.admit(session, run.owner):
            if action == "retry":
                run = runs.retry_run(session, run_id)
            else:
                run = runs.resume_run(session, run_id, body.model_dump(exclude_unset=True) if body else {})
    after.add_task(state.wakeups.wake, [run.id])
    return run_view(session, run)


@router.delete("/{run_id}", summary="Delete run", status_code=204)
def delete(run_id: RunId, _: Submitter, state: StateDep, session: WriteSessionDep, after: BackgroundTasks) -> None:
    """Delete a finished run and its folder, but not its encoder or collection."""
    runs.delete_run(session, run_id)
    after.add_task(files.remove_tree, state.settings.runs_dir / run_id)


@router.get("/{run_id}/metrics", summary="List metrics of run", response_model=ItemList)
@in_thread_pool("slow")
def metrics(
    run_id: RunId,
    _: Viewer,
    state: StateDep,
    session: ReadSessionDep,
    after: Step = 0,
    after_id: LineNumber = 0,
    limit: Annotated[int, Query(ge=1, le=100_000, description="greatest number of lines")] = 100_000,
) -> Response:
    """Metric lines in the order of their arrival.

    For newer lines set ``after_id`` to the last line's ``id``, or ``after`` to the last step (steps restart with each
    phase of an evaluation).
    """
    runs.get_run(session, run_id)
    lines = runs.metric_texts(session, run_id, after_id, limit, step=after or None)
    return Response(metrics_json(lines), media_type="application/json")


@router.get("/{run_id}/logs", summary="Read log of run")
def logs(run_id: RunId, _: Viewer, state: StateDep, session: ReadSessionDep, offset: LogOffset = 0) -> LogChunk:
    """Up to 1 MiB of the log from byte ``offset`` on."""
    runs.get_run(session, run_id)
    return RunFiles(state, session, run_id).log(offset)


@router.get(
    "/{run_id}/events",
    summary="Stream events of run",
    response_class=EventSourceResponse,
    responses=documented_responses("text/event-stream"),
)
def events(
    run_id: RunId,
    _: Viewer,
    state: StateDep,
    session: ReadSessionDep,
    last_event_id: Annotated[int, Header(ge=0, lt=2**63, description="id of the last event received")] = 0,
) -> EventSourceResponse:
    """Server-sent events ``metrics`` and ``state`` until the run has ended; Last-Event-ID resumes."""
    runs.get_run(session, run_id)
    return EventSourceResponse(stream_events(state.database, state.following, run_id, last_event_id))


@router.get("/{run_id}/artifacts", summary="List artifacts of run")
def artifacts(run_id: RunId, _: Viewer, state: StateDep, session: ReadSessionDep) -> ListOf[ArtifactView]:
    runs.get_run(session, run_id)
    return ListOf[ArtifactView](items=RunFiles(state, session, run_id).artifacts())


@router.get("/{run_id}/artifacts/{name:path}", summary="Download artifact", response_class=Response, responses=DOWNLOAD)
def artifact(
    run_id: RunId,
    name: Annotated[str, Path(description="name of the artifact, as the list has it")],
    _: Viewer,
    state: StateDep,
    session: ReadSessionDep,
) -> Response:
    """Download, whole or, from the home of the service, the requested range of bytes."""
    runs.get_run(session, run_id)
    return RunFiles(state, session, run_id).artifact(name)


@specs_router.get("", summary="List specs")
def list_specs(_: Viewer) -> ListOf[SpecSummary]:
    """Kinds of runs, and of studies, with what each does and the names of its presets."""
    return ListOf[SpecSummary](
        items=[
            SpecSummary(kind=kind, description=model.__doc__ or "", presets=sorted(presets(kind)))
            for kind, model in SPEC_MODELS.items()
        ]
    )


@specs_router.get("/{kind}", summary="Get spec")
def spec_schema(kind: SpecKind, _: Viewer) -> SpecView:
    """JSON schema and presets of a kind of run, or of a study."""
    _check_kind(kind)
    return SpecView(json_schema=SPEC_MODELS[kind].model_json_schema(), presets=presets(kind))


@specs_router.post("/{kind}/estimate", summary="Estimate run")
def estimate(
    kind: SpecKind, body: EstimateRequest, principal: Viewer, state: StateDep, session: ReadSessionDep
) -> EstimateView:
    """Time, memory, operations and disk of a pre-training, before it is submitted; nothing is queued.

    A spec is refused as its submission would be. Rates come from the runs that the principal may see.
    """
    _check_kind(kind)
    if kind != "pretrain":
        raise Problem(422, "bad_request", f"runs of kind {kind} are not estimated, only pretrain is", field="kind")
    spec = validate_submission(session, kind, body.spec, state.settings)
    db_submit.check_branch(session, spec, principal.visible_owner)
    return EstimateView.model_validate(asdict(runs.estimate_run(session, spec, body.resource, principal.visible_owner)))


def _check_kind(kind: str) -> None:
    """Raises: Problem 404."""
    if kind not in SPEC_MODELS:
        message = f"kind {kind!r} is not known; choose from {', '.join(SPEC_MODELS)}"
        raise Problem(404, "not_found", message, field="kind")
