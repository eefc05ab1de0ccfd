"""Runs as responses: rows, metric lines, and server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime
from typing import Any

import anyio
from anyio import to_thread
from pydantic import Field
from pydantic_core import from_json, to_json
from sqlalchemy import bindparam, func, select
from sqlalchemy.orm import Session
from sse_starlette.event import ServerSentEvent

from api.core.models import RowView
from lcl_core.db import artifacts
from lcl_core.db import runs as db_runs
from lcl_core.db.models import Metric, Run
from lcl_core.db.session import Database
from lcl_core.db.states import FINISHED, LEASED
from lcl_core.db.workers import leased_devices

POLL_SECONDS = 0.5
STREAM_SECONDS = 900.0  # after which a stream ends; its reader comes back, if its key still opens
MAX_LINES = 1000  # of a query
_NOT_COLUMNS = {"tags", "after", "obstacle", "artifacts", "devices"}
_LAST_LINE = select(func.max(Metric.id)).where(Metric.run_id == Run.id).scalar_subquery()
_POSITION = select(Run.state, Run.attempt, func.coalesce(_LAST_LINE, 0)).where(Run.id == bindparam("run_id"))


class RunView(RowView):
    id: str = Field(description="id of the run")
    kind: str = Field(description="what it does")
    name: str | None = Field(description="as submitted")
    tags: list[str] = Field(description="words to filter the list of runs by")
    notes: str | None = Field(None, description="what its owner wrote about it")
    state: str = Field(
        description="waiting, queued, running, cancelling, cancelled, pausing, paused, succeeded or failed"
    )
    spec: dict[str, Any] = Field(description="with the preset and all defaults filled in")
    reason: dict[str, Any] | None = Field(description="why it failed: code, message, field")
    interruption: dict[str, Any] | None = Field(
        description="why its last attempt ended unfinished, and what the present one found damaged: code, message"
    )
    progress: dict[str, Any] | None = Field(description="its last line of metrics")
    obstacle: dict[str, Any] | None = Field(None, description="why no worker can take it: code, message")
    result: dict[str, Any] | None = Field(description="what it made and measured; null until it succeeds")
    attempt: int = Field(description="number of the present attempt, from 1")
    max_attempts: int = Field(description="attempts without progress before it fails")
    priority: int = Field(description="higher goes first")
    resource: str = Field(description="cpu, gpu, or accelerator: a GPU where there is one")
    gpus: int = Field(description="that it takes on each machine where it gets GPUs; 0: of resource cpu")
    devices: list[str] = Field([], description="ids of the GPUs that it has now")
    after: list[str] = Field(description="runs whose success it waits for")
    owner: str = Field(description="owner of the key that submitted it")
    created_at: datetime = Field(description="when it was submitted")
    started_at: datetime | None = Field(description="when its first attempt began")
    finished_at: datetime | None = Field(description="when it ended")
    encoder_id: str | None = Field(None, description="the encoder that it made or evaluated")
    collection_id: str | None = Field(None, description="the collection that it made or added to")
    inputs: dict[str, Any] | None = Field(
        None, description="content hash of each dataset, weights hash of each encoder, and folders, that it reads"
    )
    study_id: str | None = Field(None, description="the study that submitted it")
    artifacts: dict[str, Any] | None = Field(
        None,
        description="while its files are not in the store of artifacts yet: code artifacts_pending, message",
    )


def run_view(session: Session, run: Run) -> RunView:
    return run_views(session, [run])[0]


def run_views(session: Session, runs: Sequence[Run]) -> list[RunView]:
    """Views with the reason why no worker can run a queued run, and with pending uploads of its files."""
    blocked = db_runs.blocked_reasons(session, runs)
    started = [run.id for run in runs if run.started_at is not None]
    pending = artifacts.runs_with_pending_uploads(session, started) if started else {}
    leased = leased_devices(session) if any(run.state in LEASED for run in runs) else {}
    views = []
    for run in runs:
        columns = {name: getattr(run, name) for name in RunView.model_fields.keys() - _NOT_COLUMNS}
        missing = None
        if run.id in pending:
            why = f"; the last try failed: {pending[run.id]}" if pending[run.id] else ""
            message = f"its files are on the machine that made them and are being sent to the store{why}"
            missing = {"code": "artifacts_pending", "message": message}
        views.append(
            RunView(
                **columns,
                tags=list(run.tags),
                after=list(run.after),
                obstacle=blocked.get(run.id),
                devices=[device for device, run_id in leased.items() if run_id == run.id],
                artifacts=missing,
            )
        )
    return views


def metrics_json(lines: Iterable[tuple[int, str]]) -> bytes:
    """The body of an ``ItemList`` of metric lines, made one line at a time: a run may have 100,000.

    Args:
        lines: (id, stored JSON) of each line.
    """
    items = (to_json({**from_json(text), "id": line_id}, inf_nan_mode="null") for line_id, text in lines)
    return b'{"items":[' + b",".join(items) + b"]}"


async def stream_events(database: Database, run_id: str, after: int) -> AsyncIterator[bytes]:
    """``metrics`` with the line's id, and ``state`` whenever the state or the attempt changed; some at a time.

    A client that reconnects with ``Last-Event-ID`` gets the present state and the lines after that id. The final state
    is always the last event of a run; a stream of ``STREAM_SECONDS`` ends before, and its client reconnects.
    """

    def read(after: int, known: Any) -> tuple[Any, list[dict[str, Any]], dict[str, Any]]:
        """Position of the run, None for a deleted one; where it has changed, new lines and the run.

        The position is read first, so that a finished run's last lines cannot be missed.
        """
        with database.reading() as session:
            position = session.execute(_POSITION, {"run_id": run_id}).tuples().one_or_none()
            if position is None or position == known:
                return position, [], {}
            rows = db_runs.metrics_after(session, run_id, after, MAX_LINES)
            lines = [{**row.values, "id": row.id} for row in rows]
            run = run_view(session, db_runs.get_run(session, run_id))
            return position, lines, run.model_dump(mode="json", exclude={"spec", "progress"})

    known, reported, end = None, None, anyio.current_time() + STREAM_SECONDS
    while anyio.current_time() < end:
        position, lines, run = await to_thread.run_sync(read, after, known)
        if position is None:
            return
        after = lines[-1]["id"] if lines else after
        events = [make_event(line["id"], "metrics", line) for line in lines]
        complete = len(lines) < MAX_LINES
        if complete and position[:2] != reported and run:
            reported = position[:2]
            events.append(make_event(after, "state", run))
        if events:
            yield b"".join(events)
        if complete and position[0] in FINISHED:
            return
        if complete:
            known = position
            await anyio.sleep(POLL_SECONDS)


def make_event(number: int, name: str, data: dict[str, Any]) -> bytes:
    text = json.dumps(data, separators=(",", ":"))
    return ServerSentEvent(text, id=str(number), event=name).encode()
