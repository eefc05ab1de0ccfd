# Made from api/client/runs.py by `python -m api.client.derivation`: change that one.
"""Calls about runs, their files and their events."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from api.client.aio.transport import AsyncTransport, pause
from api.client.errors import ApiError
from api.client.runs import EVENT_BREAKS, FINAL, Json
from api.client.transport import BUSY


class AsyncRunCalls(AsyncTransport):
    async def submit(
        self,
        kind: str,
        spec: Mapping[str, Any],
        name: str | None = None,
        tags: Sequence[str] | None = None,
        idempotency_key: str | None = None,
        *,
        after: Sequence[str] = (),
        priority: int = 0,
        max_attempts: int | None = None,
        resource: str | None = None,
    ) -> Json:
        """Queue a run. A key is made when none is given, so that a repeated request never makes two runs.

        Args:
            after: ids of runs whose success it waits for.
            priority: -100 to 100; higher goes first.
            max_attempts: workers that may be lost before it fails.
            resource: ``cpu`` or ``gpu``, which a worker must offer; none: any worker, by kind.
        """
        body: Json = {"kind": kind, "spec": dict(spec), "name": name, "tags": list(tags or ())}
        given: Json = {"after": list(after), "priority": priority, "max_attempts": max_attempts, "resource": resource}
        body |= {field: value for field, value in given.items() if value}
        headers = {"idempotency-key": idempotency_key or uuid.uuid4().hex}
        return (await self.send("POST", "/v1/runs", json=body, headers=headers, repeatable=True)).json()

    async def run(self, run_id: str) -> Json:
        return await self.get(f"/v1/runs/{quote(run_id, safe='')}")

    async def runs(
        self,
        kind: str | None = None,
        state: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
        tag: str | None = None,
    ) -> Json:
        """One page, newest first: {"items": […], "next_cursor": str or None}."""
        return await self.get("/v1/runs", kind=kind, state=state, limit=limit, cursor=cursor, tag=tag)

    async def cancel(self, run_id: str) -> Json:
        return await self._verb(run_id, "cancel")

    async def pause(self, run_id: str) -> Json:
        """Hold a run back; one at work writes a checkpoint first."""
        return await self._verb(run_id, "pause")

    async def unpause(self, run_id: str) -> Json:
        return await self._verb(run_id, "unpause")

    async def resume(self, run_id: str) -> Json:
        """Go on from the last checkpoint of a cancelled or failed run."""
        return await self._verb(run_id, "resume")

    async def retry(self, run_id: str) -> Json:
        """Start a finished run anew."""
        return await self._verb(run_id, "retry")

    async def delete(self, run_id: str) -> None:
        await self.send("DELETE", f"/v1/runs/{quote(run_id, safe='')}")

    async def metrics(self, run_id: str, after: int = 0, after_id: int = 0) -> list[Json]:
        """Metric lines with a step above ``after``, or that came after the line of number ``after_id``."""
        return (await self.get(f"/v1/runs/{quote(run_id, safe='')}/metrics", after=after, after_id=after_id))["items"]

    async def logs(self, run_id: str, offset: int = 0) -> Json:
        """{"text", "offset"}: the log from byte ``offset`` on, and where to go on."""
        return await self.get(f"/v1/runs/{quote(run_id, safe='')}/logs", offset=offset)

    async def artifacts(self, run_id: str) -> list[Json]:
        return (await self.get(f"/v1/runs/{quote(run_id, safe='')}/artifacts"))["items"]

    async def artifact(self, run_id: str, name: str) -> bytes:
        return (await self.send("GET", f"/v1/runs/{quote(run_id, safe='')}/artifacts/{quote(name)}")).content

    async def download_artifact(self, run_id: str, name: str, path: str | Path) -> Path:
        return await self.download(f"/v1/runs/{quote(run_id, safe='')}/artifacts/{quote(name)}", path)

    async def events(self, run_id: str) -> AsyncGenerator[Json]:
        """{"event": "state" | "metrics", "data"} until the run ends; a cut connection is taken up where it broke."""
        last_id, breaks = "", 0
        while True:
            try:
                async with aclosing(self._events_from(run_id, last_id)) as pieces:
                    async for event in pieces:
                        last_id, breaks = event.pop("id"), 0
                        yield event
                        if event["event"] == "state" and event["data"]["state"] in FINAL:
                            return
            except ApiError as error:
                if (error.status and error.status not in BUSY) or breaks >= EVENT_BREAKS:
                    raise
            breaks += 1
            await pause(breaks)

    async def wait(self, run_id: str, on_progress: Callable[[Json], None] | None = None) -> Json:
        """Block until the run has ended; ``on_progress`` gets each of its metric lines. Returns the run."""
        async with aclosing(self.events(run_id)) as pieces:
            async for event in pieces:
                if on_progress and event["event"] == "metrics":
                    on_progress(event["data"])
        return await self.run(run_id)

    async def spec_schema(self, kind: str) -> Json:
        """{"schema": JSON schema, "presets": {name: spec}}."""
        return await self.get(f"/v1/specs/{quote(kind, safe='')}")

    async def estimate(self, kind: str, spec: Mapping[str, Any], resource: str | None = None) -> Json:
        """What a run of ``spec`` would take: seconds, memory, operations, disk; nothing is queued.

        Raises: ApiError as ``submit``, and ``not_estimated`` for a kind other than pretrain.
        """
        body: Json = {"spec": dict(spec)} | ({"resource": resource} if resource else {})
        return (
            await self.send("POST", f"/v1/specs/{quote(kind, safe='')}/estimate", json=body, repeatable=True)
        ).json()

    async def _verb(self, run_id: str, verb: str) -> Json:
        return await self.post(f"/v1/runs/{quote(run_id, safe='')}/{verb}")

    async def _events_from(self, run_id: str, last_id: str) -> AsyncGenerator[Json]:
        headers = {"accept": "text/event-stream", **({"last-event-id": last_id} if last_id else {})}
        timeout = httpx.Timeout(60.0, connect=10.0)  # the service pings every 15 s
        path = f"/v1/runs/{quote(run_id, safe='')}/events"
        async with self.stream(path, headers=headers, timeout=timeout) as response:
            async with aclosing(parse_events(response.aiter_lines())) as pieces:
                async for each in pieces:
                    yield each


async def parse_events(lines: AsyncIterator[str]) -> AsyncGenerator[Json]:
    """Server-sent events as {"id", "event", "data"}, data parsed as JSON; comments are pings."""
    facts: dict[str, str] = {}
    async for line in lines:
        if line.startswith(":"):
            continue
        if line:
            key, _, value = line.partition(": ")
            facts[key] = value
        elif facts:
            yield {"id": facts.get("id", ""), "event": facts.get("event", "message"), "data": json.loads(facts["data"])}
            facts = {}
