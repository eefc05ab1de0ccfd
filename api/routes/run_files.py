"""What a run writes: metrics, log, artifacts, and all of it as it happens."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from sse_starlette.sse import EventSourceResponse

from api.answers import sends
from api.deps import ContextDep, ReaderDep, Viewer
from api.errors import REFUSALS
from api.events import events_of
from api.files import FILE
from api.models import ArtifactList, Items, LogPiece
from api.run_files import RunFiles
from api.views import metric_line
from lcl_core.runs import store

router = APIRouter(prefix="/v1/runs/{run_id}", tags=["runs"], responses=REFUSALS)
RowNumber = Annotated[int, Query(ge=0, lt=2**63)]
DOWNLOAD = sends(FILE) | sends(FILE, status=206, words="The range that was asked for")
Step = Annotated[int, Query(ge=0, lt=2**31)]  # what the column holds


@router.get("/metrics")
def metrics(
    run_id: str,
    _: Viewer,
    session: ReaderDep,
    after: Step = 0,
    after_id: RowNumber = 0,
    limit: Annotated[int, Query(ge=1, le=100_000)] = 100_000,
) -> Items:
    """Metric lines in the order they came.

    For the newer ones ask ``after_id`` the last line's ``id``, or ``after`` the last step (steps begin anew with
    each phase of an evaluation).
    """
    store.get_run(session, run_id)
    rows = store.metrics_after(session, run_id, after_id, limit, step=after or None)
    return Items(items=[metric_line(row) for row in rows])


@router.get("/logs")
def logs(run_id: str, _: Viewer, context: ContextDep, session: ReaderDep, offset: RowNumber = 0) -> LogPiece:
    """Up to 1 MiB of the log from byte ``offset`` on."""
    store.get_run(session, run_id)
    return RunFiles(context, session, run_id).log(offset)


@router.get("/events", response_class=EventSourceResponse, responses=sends("text/event-stream"))
def events(
    run_id: str,
    _: Viewer,
    context: ContextDep,
    session: ReaderDep,
    last_event_id: Annotated[int, Header(ge=0, lt=2**63)] = 0,
) -> EventSourceResponse:
    """Server-sent events ``metrics`` and ``state`` until the run has ended; Last-Event-ID takes up where it broke."""
    store.get_run(session, run_id)
    return EventSourceResponse(events_of(context, run_id, last_event_id))


@router.get("/artifacts")
def artifacts(run_id: str, _: Viewer, context: ContextDep, session: ReaderDep) -> ArtifactList:
    store.get_run(session, run_id)
    return ArtifactList(items=RunFiles(context, session, run_id).artifacts())


@router.get("/artifacts/{name:path}", response_class=Response, responses=DOWNLOAD)
def artifact(
    run_id: str,
    name: str,
    _: Viewer,
    context: ContextDep,
    session: ReaderDep,
    range_: Annotated[str | None, Header(alias="range")] = None,
) -> Response:
    """Download, whole or one range of bytes."""
    store.get_run(session, run_id)
    return RunFiles(context, session, run_id).artifact(name, range_)
