"""Calls about runs (with their files, metrics and events) and studies."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from api.client._sync.transport import RETRY_STATUSES, Transport, backoff
from api.client.errors import ApiError

MAX_RECONNECTS = 8  # about twenty seconds without the service: a restart is shorter
FINAL_STATES = ("succeeded", "failed", "cancelled")
Json = dict[str, Any]


class RunCalls(Transport):
    def submit(
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
        return self.send("POST", "/v1/runs", json=body, headers=headers, repeatable=True).json()

    def run(self, run_id: str) -> Json:
        return self.get(f"/v1/runs/{quote(run_id, safe='')}")

    def runs(
        self,
        kind: str | None = None,
        state: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
        tag: str | None = None,
    ) -> Json:
        """One page, newest first: {"items": […], "next_cursor": str or None}."""
        return self.get("/v1/runs", kind=kind, state=state, limit=limit, cursor=cursor, tag=tag)

    def cancel(self, run_id: str) -> Json:
        return self._verb(run_id, "cancel")

    def pause(self, run_id: str) -> Json:
        """Hold a run back; one at work writes a checkpoint first."""
        return self._verb(run_id, "pause")

    def unpause(self, run_id: str) -> Json:
        return self._verb(run_id, "unpause")

    def resume(self, run_id: str) -> Json:
        """Go on from the last checkpoint of a cancelled or failed run."""
        return self._verb(run_id, "resume")

    def retry(self, run_id: str) -> Json:
        """Start a finished run anew."""
        return self._verb(run_id, "retry")

    def delete(self, run_id: str) -> None:
        self.send("DELETE", f"/v1/runs/{quote(run_id, safe='')}")

    def metrics(self, run_id: str, after: int = 0, after_id: int = 0) -> list[Json]:
        """Metric lines with a step above ``after``, or that came after the line of number ``after_id``."""
        return self.get(f"/v1/runs/{quote(run_id, safe='')}/metrics", after=after, after_id=after_id)["items"]

    def logs(self, run_id: str, offset: int = 0) -> Json:
        """{"text", "offset"}: the log from byte ``offset`` on, and where to go on."""
        return self.get(f"/v1/runs/{quote(run_id, safe='')}/logs", offset=offset)

    def artifacts(self, run_id: str) -> list[Json]:
        return self.get(f"/v1/runs/{quote(run_id, safe='')}/artifacts")["items"]

    def artifact(self, run_id: str, name: str) -> bytes:
        return self.send("GET", f"/v1/runs/{quote(run_id, safe='')}/artifacts/{quote(name)}").content

    def download_artifact(self, run_id: str, name: str, path: str | Path) -> Path:
        return self.download(f"/v1/runs/{quote(run_id, safe='')}/artifacts/{quote(name)}", path)

    def events(self, run_id: str) -> Iterator[Json]:
        """{"event": "state" | "metrics", "data"} until the run ends; a cut connection is taken up where it broke."""
        last_id, breaks = "", 0
        while True:
            try:
                for event in self._events_from(run_id, last_id):
                    last_id, breaks = event.pop("id"), 0
                    yield event
                    if event["event"] == "state" and event["data"]["state"] in FINAL_STATES:
                        return
            except ApiError as error:
                if (error.status and error.status not in RETRY_STATUSES) or breaks >= MAX_RECONNECTS:
                    raise
            breaks += 1
            backoff(breaks)

    def wait(self, run_id: str, on_progress: Callable[[Json], None] | None = None) -> Json:
        """Block until the run has ended; ``on_progress`` gets each of its metric lines. Returns the run."""
        for event in self.events(run_id):
            if on_progress and event["event"] == "metrics":
                on_progress(event["data"])
        return self.run(run_id)

    def spec_schema(self, kind: str) -> Json:
        """{"schema": JSON schema, "presets": {name: spec}}."""
        return self.get(f"/v1/specs/{quote(kind, safe='')}")

    def estimate(self, kind: str, spec: Mapping[str, Any], resource: str | None = None) -> Json:
        """What a run of ``spec`` would take: seconds, memory, operations, disk; nothing is queued.

        Raises: ApiError as ``submit``, and ``not_estimated`` for a kind other than pretrain.
        """
        body: Json = {"spec": dict(spec)} | ({"resource": resource} if resource else {})
        return self.send("POST", f"/v1/specs/{quote(kind, safe='')}/estimate", json=body, repeatable=True).json()

    def _verb(self, run_id: str, verb: str) -> Json:
        return self.post(f"/v1/runs/{quote(run_id, safe='')}/{verb}")

    def _events_from(self, run_id: str, last_id: str) -> Iterator[Json]:
        headers = {"accept": "text/event-stream", **({"last-event-id": last_id} if last_id else {})}
        timeout = httpx.Timeout(60.0, connect=10.0)  # the service pings every 15 s
        path = f"/v1/runs/{quote(run_id, safe='')}/events"
        with self.stream(path, headers=headers, timeout=timeout) as response:
            yield from parse_events(response.iter_lines())


def parse_events(lines: Iterator[str]) -> Iterator[Json]:
    """Server-sent events as {"id", "event", "data"}, data parsed as JSON; comments are pings."""
    facts: dict[str, str] = {}
    for line in lines:
        if line.startswith(":"):
            continue
        if line:
            key, _, value = line.partition(": ")
            facts[key] = value
        elif facts:
            yield {"id": facts.get("id", ""), "event": facts.get("event", "message"), "data": json.loads(facts["data"])}
            facts = {}


STUDY_FINAL_STATES = ("succeeded", "failed", "cancelled")


class StudyCalls(Transport):
    def submit_study(
        self, spec: Mapping[str, Any], name: str | None = None, idempotency_key: str | None = None
    ) -> Json:
        """Queue the runs of a study. A key is made when none is given, so a repeated request never makes two."""
        headers = {"idempotency-key": idempotency_key or uuid.uuid4().hex}
        body = {"spec": dict(spec), "name": name}
        return self.send("POST", "/v1/studies", json=body, headers=headers, repeatable=True).json()

    def plan_study(self, spec: Mapping[str, Any]) -> Json:
        """{"rows", "seeds", "cells", "reused"}: what a submission would come to; nothing is queued."""
        return self.post("/v1/studies/plan", {"spec": dict(spec)}, repeatable=True)

    def studies(self, limit: int = 50, cursor: str | None = None) -> Json:
        """One page, newest first: {"items": […], "next_cursor": str or None}."""
        return self.get("/v1/studies", limit=limit, cursor=cursor)

    def study(self, study_id: str) -> Json:
        """Its spec, state, cells with their runs, and the table so far."""
        return self.get(_study_path(study_id))

    def cancel_study(self, study_id: str) -> Json:
        return self.post(f"{_study_path(study_id)}/cancel")

    def resume_study(self, study_id: str) -> Json:
        """Take up again what failed or was cancelled."""
        return self.post(f"{_study_path(study_id)}/resume")

    def extend_study(self, study_id: str, **addition: Any) -> Json:
        """``addition``: seeds, axes (of the same names, with new variants), trials. Asking twice changes nothing."""
        return self.post(f"{_study_path(study_id)}/extend", addition, repeatable=True)

    def delete_study(self, study_id: str) -> None:
        """Its runs and encoders stay."""
        self.send("DELETE", _study_path(study_id))

    def study_table(self, study_id: str, kind: str = "json") -> str:
        """The table as ``json``, ``csv`` or ``md``, as text."""
        return self.send("GET", f"{_study_path(study_id)}/table.{quote(kind, safe='')}").text

    def study_plot(self, study_id: str, name: str, kind: str = "svg", **wanted: str | None) -> bytes:
        """``name``: rows, pareto, scaling or curves. ``wanted``: metric, and for curves value."""
        given = {key: value for key, value in wanted.items() if value is not None}
        path = f"{_study_path(study_id)}/plots/{quote(name, safe='')}.{quote(kind, safe='')}"
        return self.send("GET", path, params=given).content

    def study_curves(self, study_id: str, value: str = "loss") -> Json:
        """{"value", "values", "rows": [{"labels", "rung", "points": [[step, mean, lowest, highest]]}]}."""
        return self.get(f"{_study_path(study_id)}/curves", value=value)

    def compare_rows(self, study_id: str, left: int, right: int) -> Json:
        """Two rows of the table, by number from 0: paired over ``seeds`` and over ``samples``."""
        return self.get(f"{_study_path(study_id)}/compare", left=left, right=right)

    def wait_for_study(
        self, study_id: str, on_change: Callable[[Json], None] | None = None, poll_seconds: float = 2.0
    ) -> Json:
        """Block until the study has ended; ``on_change`` gets it whenever a cell changed its state."""
        known: list[str] | None = None
        while True:
            study = self.study(study_id)
            states = [cell["state"] for cell in study["cells"]]
            if on_change and states != known:
                on_change(study)
            known = states
            if study["state"] in STUDY_FINAL_STATES:
                return study
            time.sleep(poll_seconds)


def _study_path(study_id: str) -> str:
    return f"/v1/studies/{quote(study_id, safe='')}"
