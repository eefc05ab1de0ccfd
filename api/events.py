"""A run's life as server-sent events: its metric lines and its states, until it has ended."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
from anyio import to_thread

from api.context import Context
from api.views import metric_line, run_view
from lcl_core.errors import UserError
from lcl_core.runs import store
from lcl_core.runs.states import FINISHED

BATCH = 1000
Event = dict[str, Any]


async def events_of(context: Context, run_id: str, after: int) -> AsyncIterator[Event]:
    """``metrics`` with the row's number as id, and ``state`` whenever the state or the attempt changed.

    A reader that comes back with ``Last-Event-ID`` gets the present state and the lines after that number. The
    final state is always the last event of a run; a stream that grew old ends before, and its reader comes back.
    """
    told: tuple[str, int] | None = None
    end = anyio.current_time() + context.settings.event_stream_seconds
    while anyio.current_time() < end:
        try:
            run, lines = await to_thread.run_sync(_look, context, run_id, after)
        except UserError:  # deleted meanwhile: nothing more will come
            return
        for line in lines:
            after = line["id"]
            yield _event(after, "metrics", line)
        if len(lines) == BATCH:
            continue
        if told != (run["state"], run["attempt"]):
            told = (run["state"], run["attempt"])
            yield _event(after, "state", run)
        if run["state"] in FINISHED:
            return
        await anyio.sleep(context.settings.event_poll_seconds)


def _look(context: Context, run_id: str, after: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The run, then its new lines: in this order a finished run's last lines cannot be missed."""
    with context.database.reading() as session:
        run = run_view(session, store.get_run(session, run_id)).model_dump(mode="json", exclude={"spec", "progress"})
        lines = [metric_line(row) for row in store.metrics_after(session, run_id, after, BATCH)]
    return run, lines


def _event(number: int, name: str, data: dict[str, Any]) -> Event:
    return {"id": str(number), "event": name, "data": json.dumps(data, ensure_ascii=False, separators=(",", ":"))}
