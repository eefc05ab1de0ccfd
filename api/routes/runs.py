"""Runs: submission, pages, transitions of the state machine; their metrics, log, events and artifacts.

Also schemas and presets of specs, and estimates of runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import structlog
from fastapi import APIRouter, BackgroundTasks, Header, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session
from sse_starlette.sse import EventSourceResponse

from api.core.errors import ERROR_RESPONSES, Problem, documented_responses, problem_of_field
from api.core.models import ItemList, Line, ListOf, PageOf, Reference, RequestModel, request_example
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
from api.services.run_files import OCTET_STREAM, ArtifactView, LogChunk, RunFiles
from api.services.runs import RunView, metrics_json, run_view, run_views, stream_events
from lcl_core.common import files
from lcl_core.common.errors import NotFound, UserError
from lcl_core.common.paths import Root, resolve_allowed
from lcl_core.common.settings import Settings
from lcl_core.db import datasets, registry, runs, submit
from lcl_core.db.models import Run
from lcl_core.db.states import State
from lcl_core.estimate.report import RunEstimate
from lcl_core.jobs import Kind
from lcl_core.specs.base import References, Tag, presets
from lcl_core.specs.corpus_jobs import IndexSpec
from lcl_core.specs.parsing import SPECS, AnySpec, parse_spec
from lcl_core.specs.study import StudySpec
from lcl_core.vector_indexes import IndexLocation, check_index

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


class RunSubmission(RequestModel):
    model_config = ConfigDict(
        json_schema_extra=request_example(
            kind="pretrain", spec={"preset": "sample", "steps": 500}, name="first-try", tags=["baseline"]
        )
    )

    kind: Kind = Field(description="what the run does")
    spec: dict[str, Any] = Field(description="as GET /v1/specs/{kind} describes", examples=[{"preset": "sample"}])
    name: Line | None = Field(
        None, description="shown in lists; of a pretrain run also the name of the encoder that it makes"
    )
    tags: list[Tag] = Field([], max_length=32, description="words to filter the list of runs by")
    after: list[Reference] = Field([], max_length=32, description="ids or names of runs whose success it waits for")
    priority: int = Field(0, ge=-100, le=100, description="higher goes first; above 0 for admins alone")
    resource: Literal["cpu", "gpu"] | None = Field(None, description="what a worker must offer; none: any, by kind")
    gpus: int | None = Field(
        None, ge=1, le=64, description="on each machine, as engine.processes says; none: that many where it gets GPUs"
    )
    max_attempts: int = Field(
        submit.DEFAULT_MAX_ATTEMPTS,
        ge=1,
        le=100,
        description="workers that may be lost without a new checkpoint between before it fails",
    )


class RunAnnotation(RequestModel):
    model_config = ConfigDict(json_schema_extra=request_example(tags=["baseline"], notes="diverged after step 4,000"))

    tags: list[Tag] = Field([], max_length=32, description="replace the tags of the run; left out: they stay")
    notes: str | None = Field(
        None, max_length=10_000, description="replace the notes of the run, null removes them; left out: they stay"
    )


class RunResumption(RequestModel):
    model_config = ConfigDict(json_schema_extra=request_example(timeout_seconds=90_000))

    timeout_seconds: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="replace the limit on the time of all attempts, null removes it; left out: it stays",
    )


@router.post("", summary="Submit run", status_code=202, name="submit")
def submit_run(
    body: RunSubmission,
    principal: Submitter,
    state: StateDep,
    session: WriteSessionDep,
    after: BackgroundTasks,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> RunView:
    """Queue a run. The same Idempotency-Key and body give the same run."""
    owner, visible_owner = principal.owner, principal.visible_owner
    body_hash = submit.hash_body(body.model_dump())
    # before all checks of what is there now: a repeated request gets its run whatever has changed since
    run = submit.find_by_idempotency_key(session, Run, owner, idempotency_key, body_hash)
    if run is None:
        if body.priority > 0 and visible_owner is not None:
            message = "a priority above 0 is for admins; submit the run without it, or ask an admin to submit it"
            raise Problem(403, "forbidden", message, field="priority")
        spec = validate_submission(session, body.kind, body.spec, state.settings)
        registry.check_run_names(session, body.kind, spec, body.name, owner)
        with state.admit_runs(session, owner):
            ids = []
            for index, reference in enumerate(body.after):
                try:
                    ids.append(runs.find_owned(session, Run, reference, visible_owner).id)
                except NotFound:
                    ids.append(reference)  # the submission refuses it
                except UserError as error:
                    raise Problem(422, error.code, error.message, field=f"after.{index}") from error
            run = submit.submit(
                session,
                body.kind,
                spec,
                body.name,
                body.tags,
                owner,
                idempotency_key,
                **body.model_dump(include={"priority", "max_attempts", "resource", "gpus"}),
                after=ids,
                visible_to=visible_owner,
                body_hash=body_hash,
            )
    response.headers["location"] = f"/v1/runs/{run.id}"
    after.add_task(state.wake, [run.id])
    log.info("run_submitted", run=run.id, kind=run.kind, owner=run.owner)
    return run_view(session, run)


def validate_submission(session: Session, kind: str, value: dict[str, Any], settings: Settings) -> AnySpec:
    """Parse a spec, and check that everything it reads is registered or below one of the data roots.

    Raises: Problem 422 with the dotted field of the spec; UserError ``bad_spec``, ``encoder_mismatch``,
    ``invalid_value``, ``no_data``, and that of an index that this service cannot make.
    """
    with problem_of_field():
        spec = parse_spec(kind, value)
    read = spec.references()
    check_references(session, read, settings.roots)
    for name in read.collections.values():
        encoder = registry.get_encoder(session, read.encoders["encoder"])
        registry.check_collection_encoder(session, registry.get_collection(session, name), encoder)
    if isinstance(spec, IndexSpec):
        check_index(spec.index, IndexLocation(settings=settings))
    datasets.check_tags(session, spec)
    datasets.check_views(session, spec)
    return spec


def check_references(session: Session, read: References, roots: Sequence[Root], prefix: str = "") -> None:
    """Check that all are registered, or below ``roots``. Raises: Problem 422 with the field after ``prefix``."""
    lookups: list[tuple[dict[str, str], Callable[[str], object]]] = [
        (read.datasets, lambda name: datasets.get_dataset(session, name)),
        (read.encoders, lambda name: registry.get_encoder(session, name)),
        (read.collections, lambda name: registry.get_collection(session, name)),
        (read.paths, lambda path: resolve_allowed(path, roots)),
    ]
    for names, find in lookups:
        for field, name in names.items():
            with problem_of_field(prefix + field):
                find(name)


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
    study: Annotated[Reference | None, Query(description="only runs that this study, by its id, submitted")] = None,
    limit: PageLimit = 50,
    cursor: Cursor = None,
) -> PageOf[RunView]:
    """Newest first, the caller's own (for an admin: all owners'); ``next_cursor`` is the cursor of the next page."""
    state_name = None if state is None else state.value
    filters = {"kind": kind, "state": state_name, "tag": tag, "name": name, "study": study}
    rows = runs.list_runs(session, **filters, owner=principal.visible_owner, limit=limit, cursor=cursor)
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
        raise Problem(422, "invalid_value", f"{action} takes no body; resume does")
    if action == "cancel":
        return run_view(session, runs.cancel_run(session, run_id))
    if action == "pause":
        return run_view(session, runs.pause_run(session, run_id))
    if action == "resume" and run.state == State.PAUSED:
        run = runs.unpause_run(session, run_id)
    else:
        with state.admit_runs(session, run.owner):
            if action == "retry":
                run = runs.retry_run(session, run_id)
            else:
                run = runs.resume_run(session, run_id, body.model_dump(exclude_unset=True) if body else {})
    after.add_task(state.wake, [run.id])
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
    return EventSourceResponse(stream_events(state.database, run_id, last_event_id))


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


class SpecSummary(BaseModel):
    kind: str = Field(description="kind of run, or study")
    description: str = Field(description="what it does")
    presets: list[str] = Field(description="names of its starting points")


class SpecView(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    json_schema: dict[str, Any] = Field(alias="schema", description="JSON schema of the spec")
    presets: dict[str, dict[str, Any]] = Field(description="named starting points: the fields that each one sets")


class EstimateRequest(RequestModel):
    model_config = ConfigDict(json_schema_extra=request_example(spec={"preset": "sample", "steps": 500}))

    spec: dict[str, Any] = Field(description="as a submission would have it", examples=[{"preset": "sample"}])
    resource: Literal["cpu", "gpu"] | None = Field(None, description="as a submission would have it")


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
) -> RunEstimate:
    """Time, memory, operations and disk of a pre-training, before it is submitted; nothing is queued.

    A spec is refused as its submission would be. Rates come from the runs that the principal may see.
    """
    _check_kind(kind)
    if kind != "pretrain":
        raise Problem(422, "invalid_value", f"runs of kind {kind} are not estimated, only pretrain is", field="kind")
    spec = validate_submission(session, kind, body.spec, state.settings)
    submit.check_branch(session, spec, principal.visible_owner)
    return runs.estimate_run(session, spec, body.resource, principal.visible_owner)


def _check_kind(kind: str) -> None:
    """Raises: Problem 404."""
    if kind not in SPEC_MODELS:
        message = f"kind {kind!r} is not known; choose from {', '.join(SPEC_MODELS)}"
        raise Problem(404, "not_found", message, field="kind")
