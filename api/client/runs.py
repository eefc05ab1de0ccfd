"""Calls about runs, with their files, metrics and events, and about studies."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from api.client.errors import ApiError, read_json
from api.client.payloads import FINAL_STATES, Json, without_none
from api.client.transport import MAX_RECONNECTS, RETRY_STATUSES, Transport, backoff, parse_events

EVENT_TIMEOUT = httpx.Timeout(60.0, connect=10.0)  # the service pings every 15 s


def _run_path(run_id: str) -> str:
    return f"/v1/runs/{quote(run_id, safe='')}"


def _study_path(study_id: str) -> str:
    return f"/v1/studies/{quote(study_id, safe='')}"


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
        gpus: int | None = None,
    ) -> Json:
        """Queue a run. The default ``idempotency_key`` is random, so that a repeated request never makes two runs.

        Args:
            after: ids of runs that must succeed before this one starts.
            priority: -100 to 100; higher goes first.
            max_attempts: workers that may be lost before the run fails.
            resource: ``cpu`` or ``gpu``, which a worker must offer; None: any worker, by kind.
            gpus: GPUs of each machine, as ``engine.processes`` says; None: that many where the run gets GPUs.
        """
        body: Json = {"kind": kind, "spec": dict(spec), "name": name, "tags": list(tags or ())}
        options: Json = {"after": list(after), "priority": priority, "max_attempts": max_attempts}
        options |= {"resource": resource, "gpus": gpus}
        body |= {field: value for field, value in options.items() if value}
        headers = {"idempotency-key": idempotency_key or uuid.uuid4().hex}
        return read_json(self.send("POST", "/v1/runs", json=body, headers=headers, repeatable=True))

    def run(self, run_id: str) -> Json:
        return self.get(_run_path(run_id))

    def runs(
        self,
        kind: str | None = None,
        state: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
        tag: str | None = None,
        name: str | None = None,
    ) -> Json:
        """One page, newest first: {"items": […], "next_cursor": str or None}. ``name``: a part of the run's name."""
        return self.get("/v1/runs", kind=kind, state=state, limit=limit, cursor=cursor, tag=tag, name=name)

    def annotate(self, run_id: str, *, tags: Sequence[str] | None = None, notes: str | None = None) -> Json:
        """Replace tags or notes of a run; None leaves them as they are, empty ones are removed."""
        return self.patch(_run_path(run_id), without_none(tags=None if tags is None else list(tags), notes=notes))

    def cancel(self, run_id: str) -> Json:
        return self.post(f"{_run_path(run_id)}/cancel")

    def pause(self, run_id: str) -> Json:
        """Pause a run; one at work writes a checkpoint first."""
        return self.post(f"{_run_path(run_id)}/pause")

    def resume(self, run_id: str, *, timeout_seconds: float | None = None) -> Json:
        """Continue a cancelled or failed run from its last checkpoint.

        Args:
            timeout_seconds: new limit on the time of all attempts; 0: none; None: as it was.
        """
        body = None if timeout_seconds is None else {"timeout_seconds": timeout_seconds or None}
        return self.post(f"{_run_path(run_id)}/resume", body)

    def retry(self, run_id: str) -> Json:
        """Start a finished run from the beginning."""
        return self.post(f"{_run_path(run_id)}/retry")

    def delete(self, run_id: str) -> None:
        self.send("DELETE", _run_path(run_id))

    def metrics(self, run_id: str, after: int = 0, after_id: int = 0) -> list[Json]:
        """Metric lines with a step above ``after``, or recorded after the line with the number ``after_id``."""
        return self.get(f"{_run_path(run_id)}/metrics", after=after, after_id=after_id)["items"]

    def logs(self, run_id: str, offset: int = 0) -> Json:
        """{"text", "offset"}: the log from byte ``offset``, and the next offset."""
        return self.get(f"{_run_path(run_id)}/logs", offset=offset)

    def artifacts(self, run_id: str) -> list[Json]:
        return self.get(f"{_run_path(run_id)}/artifacts")["items"]

    def artifact(self, run_id: str, name: str) -> bytes:
        return self.send("GET", f"{_run_path(run_id)}/artifacts/{quote(name)}").content

    @contextmanager
    def artifact_stream(self, run_id: str, name: str) -> Generator[httpx.Response]:
        """A file of ``artifacts`` as a response to stream."""
        with self.stream(f"{_run_path(run_id)}/artifacts/{quote(name)}") as response:
            yield response

    def download_artifact(self, run_id: str, name: str, path: str | Path) -> Path:
        return self.download(f"{_run_path(run_id)}/artifacts/{quote(name)}", path)

    def events(self, run_id: str) -> Generator[Json]:
        """{"event": "state" | "metrics", "data"} until the run ends. A broken connection is resumed."""
        last_id, breaks = "", 0
        while True:
            try:
                for event in self._events_after(run_id, last_id):
                    last_id, breaks = event.pop("id"), 0
                    yield event
                    if event["event"] == "state" and event["data"]["state"] in FINAL_STATES:
                        return
            except ApiError as error:
                passes = error.code == "unreachable" or error.status in RETRY_STATUSES
                if not passes or breaks >= MAX_RECONNECTS:
                    raise
            breaks += 1
            backoff(breaks)

    def wait(self, run_id: str, on_progress: Callable[[Json], None] | None = None) -> Json:
        """Wait until the run has ended; ``on_progress`` receives each metric line. Returns: the run."""
        for event in self.events(run_id):
            if on_progress and event["event"] == "metrics":
                on_progress(event["data"])
        return self.run(run_id)

    def spec_schema(self, kind: str) -> Json:
        """{"schema": JSON schema, "presets": {name: spec}}."""
        return self.get(f"/v1/specs/{quote(kind, safe='')}")

    def estimate(self, kind: str, spec: Mapping[str, Any], resource: str | None = None) -> Json:
        """Expected seconds, memory, operations and disk of a run of ``spec``; nothing is queued.

        Raises: ApiError as ``submit``, and ``not_estimated`` for a kind other than pretrain.
        """
        body: Json = {"spec": dict(spec)} | ({"resource": resource} if resource else {})
        return self.post(f"/v1/specs/{quote(kind, safe='')}/estimate", body, repeatable=True)

    def _events_after(self, run_id: str, last_id: str) -> Generator[Json]:
        headers = {"accept": "text/event-stream", **({"last-event-id": last_id} if last_id else {})}
        with self.stream(f"{_run_path(run_id)}/events", headers=headers, timeout=EVENT_TIMEOUT) as response:
            yield from parse_events(response.iter_lines())


class StudyCalls(Transport):
    def submit_study(
        self, spec: Mapping[str, Any], name: str | None = None, idempotency_key: str | None = None
    ) -> Json:
        """Queue the runs of a study. The default ``idempotency_key`` is random: a repeated request never makes two."""
        headers = {"idempotency-key": idempotency_key or uuid.uuid4().hex}
        body = {"spec": dict(spec), "name": name}
        return read_json(self.send("POST", "/v1/studies", json=body, headers=headers, repeatable=True))

    def plan_study(self, spec: Mapping[str, Any]) -> Json:
        """{"rows", "seeds", "cells", "reused"}: what a submission would run; nothing is queued."""
        return self.post("/v1/studies/plan", {"spec": dict(spec)}, repeatable=True)

    def studies(self, limit: int = 50, cursor: str | None = None) -> Json:
        """One page, newest first: {"items": […], "next_cursor": str or None}."""
        return self.get("/v1/studies", limit=limit, cursor=cursor)

    def study(self, study_id: str) -> Json:
        """Spec, state, cells with their runs, and the table so far."""
        return self.get(_study_path(study_id))

    def cancel_study(self, study_id: str) -> Json:
        return self.post(f"{_study_path(study_id)}/cancel")

    def resume_study(self, study_id: str) -> Json:
        """Resume the failed and cancelled runs of a study; ``not_resumed`` has those whose time is used up."""
        return self.post(f"{_study_path(study_id)}/resume")

    def extend_study(self, study_id: str, **addition: Any) -> Json:
        """``addition``: seeds, axes (of the same names, with new variants), trials. A repeated call changes nothing."""
        return self.post(f"{_study_path(study_id)}/extend", addition, repeatable=True)

    def delete_study(self, study_id: str) -> None:
        """Runs and encoders of the study stay."""
        self.send("DELETE", _study_path(study_id))

    def study_table(self, study_id: str, kind: str = "json") -> str:
        """The table as ``json``, ``csv`` or ``md``, as text."""
        return self.send("GET", f"{_study_path(study_id)}/table.{quote(kind, safe='')}").text

    def study_curves(self, study_id: str, value: str = "loss") -> Json:
        """{"value", "values", "rows": [{"labels", "points": [[step, mean, lowest, highest]]}]}."""
        return self.get(f"{_study_path(study_id)}/curves", value=value)

    def compare_rows(self, study_id: str, left: int, right: int) -> Json:
        """Two rows of the table, by number from 0: paired over ``seeds`` and ``samples``; ``notes`` on their data."""
        return self.get(f"{_study_path(study_id)}/compare", left=left, right=right)

    def wait_for_study(
        self, study_id: str, on_change: Callable[[Json], None] | None = None, poll_seconds: float = 2.0
    ) -> Json:
        """Wait until the study has ended; ``on_change`` receives it whenever the state of a cell has changed."""
        last_states: list[str] | None = None
        while True:
            study = self.study(study_id)
            states = [cell["state"] for cell in study["cells"]]
            if on_change and states != last_states:
                on_change(study)
            last_states = states
            if study["state"] in FINAL_STATES:
                return study
            time.sleep(poll_seconds)
