"""A run's life as server-sent events: its metric lines and its states, until it has ended."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import anyio

from api.context import Context
from api.run_feeds import Event, event_of
from lcl_core.errors import UserError
from lcl_core.runs.states import FINISHED


async def events_of(context: Context, run_id: str, after: int) -> AsyncIterator[Event]:
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
                if not snapshot.whole:
                    continue
                if told != snapshot.state:
                    told = snapshot.state
                    yield event_of(snapshot.last, "state", snapshot.told)
                if told[0] in FINISHED:
                    return
        except UserError:  # deleted meanwhile: nothing more will come
            return
