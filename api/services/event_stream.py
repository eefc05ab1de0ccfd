"""A run's life as server-sent events: its metric lines and its states, until it has ended."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import anyio

from api.core.state import AppState
from api.services.run_events import Event, make_event
from lcl_core.common.errors import UserError
from lcl_core.db.states import FINISHED


async def run_event_stream(context: AppState, run_id: str, after: int) -> AsyncIterator[Event]:
    """``metrics`` with the row's number as id, and ``state`` whenever the state or the attempt changed.

    A reader that comes back with ``Last-Event-ID`` gets the present state and the lines after that number. The
    final state is always the last event of a run; a stream that grew old ends before, and its reader comes back.
    """
    told: tuple[str, int] | None = None
    end = anyio.current_time() + context.settings.event_stream_seconds
    async with aclosing(context.feeds.snapshots(run_id, after, end)) as snapshots:
        try:
            async for snapshot in snapshots:
                for _number, event in snapshot.lines:
                    yield event
                if not snapshot.complete:
                    continue
                if told != snapshot.state:
                    told = snapshot.state
                    yield make_event(snapshot.last, "state", snapshot.state_json)
                if told[0] in FINISHED:
                    return
        except UserError:  # deleted meanwhile: nothing more will come
            return
