"""What a run writes: metrics, log, artifacts, and all of it as it happens."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from sse_starlette.sse import EventSourceResponse

from api.core.errors import ERROR_RESPONSES
from api.core.responses import documented_responses
from api.deps import ReadSessionDep, StateDep, Viewer
from api.schemas.base import ArtifactList, ItemList, LogChunk
from api.services.event_stream import run_event_stream
from api.services.run_files import OCTET_STREAM, RunFiles
from api.services.runs import metric_line
from lcl_core.db import runs

router = APIRouter(prefix="/v1/runs/{run_id}", tags=["runs"], responses=ERROR_RESPONSES)
RowNumber = Annotated[int, Query(ge=0, lt=2**63)]
DOWNLOAD = documented_responses(OCTET_STREAM) | documented_responses(
    OCTET_STREAM, status=206, words="The range that was asked for"
)
Step = Annotated[int, Query(ge=0, lt=2**31)]  # what the column holds


@router.get("/metrics")
def metrics(
    run_id: str,
    _: Viewer,
    session: ReadSessionDep,
    after: Step = 0,
    after_id: RowNumber = 0,
    limit: Annotated[int, Query(ge=1, le=100_000)] = 100_000,
) -> ItemList:
    """Metric lines in the order they came.

    For the newer ones ask ``after_id`` the last line's ``id``, or ``after`` the last step (steps begin anew with
    each phase of an evaluation).
    """
    runs.get_run(session, run_id)
    rows = runs.metrics_after(session, run_id, after_id, limit, step=after or None)
    return ItemList(items=[metric_line(row) for row in rows])


@router.get("/logs")
def logs(run_id: str, _: Viewer, context: StateDep, session: ReadSessionDep, offset: RowNumber = 0) -> LogChunk:
    """Up to 1 MiB of the log from byte ``offset`` on."""
    runs.get_run(session, run_id)
    return RunFiles(context, session, run_id).log(offset)


@router.get("/events", response_class=EventSourceResponse, responses=documented_responses("text/event-stream"))
def events(
    run_id: str,
    _: Viewer,
    context: StateDep,
    session: ReadSessionDep,
    last_event_id: Annotated[int, Header(ge=0, lt=2**63)] = 0,
) -> EventSourceResponse:
    """Server-sent events ``metrics`` and ``state`` until the run has ended; Last-Event-ID takes up where it broke."""
    runs.get_run(session, run_id)
    return EventSourceResponse(run_event_stream(context, run_id, last_event_id))


@router.get("/artifacts")
def artifacts(run_id: str, _: Viewer, context: StateDep, session: ReadSessionDep) -> ArtifactList:
    runs.get_run(session, run_id)
    return ArtifactList(items=RunFiles(context, session, run_id).artifacts())


@router.get("/artifacts/{name:path}", response_class=Response, responses=DOWNLOAD)
def artifact(
    run_id: str,
    name: str,
    _: Viewer,
    context: StateDep,
    session: ReadSessionDep,
    range_: Annotated[str | None, Header(alias="range")] = None,
) -> Response:
    """Download, whole or one range of bytes."""
    runs.get_run(session, run_id)
    return RunFiles(context, session, run_id).artifact(name, range_)
