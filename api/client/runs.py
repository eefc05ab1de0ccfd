"""Calls about runs, with their files, metrics and events, and about studies."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from api.client.payloads import FINAL_STATES, Json, without_none
from api.client.transport import MAX_RECONNECTS, RETRY_STATUSES, ApiError, Transport, backoff, parse_events, v1

EVENT_TIMEOUT = httpx.Timeout(60.0, connect=10.0)  # the service pings every 15 s


class RunCalls(Transport):
    def submit(
        self,
        kind: str,
        spec: Mapping[str, Any],
        name: str | None = None,
        tags: Sequence[str] | None = None,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> Json:
        """Queue a run. The default ``idempotency_key`` is random, so that a repeated request never makes two runs.

        ``options``: after (ids of runs that must succeed first), priority, max_attempts, resource, gpus.
        """
        body: Json = {"kind": kind, "spec": dict(spec), "name": name, "tags": list(tags or ())}
        body |= {option: value for option, value in options.items() if value}
        return self.post_once(v1("runs"), body, idempotency_key or uuid.uuid4().hex)

    def run(self, run_id: str) -> Json:
        return self.get(v1("runs", run_id))

    def runs(self, **query: Any) -> Json:
        """One page, newest first: {"items": […], "next_cursor": str or None}.

        ``query``: kind, state, tag, name (a part of the run's name), study, limit, cursor.
        """
        return self.get(v1("runs"), **query)

    def annotate(self, run_id: str, *, tags: Sequence[str] | None = None, notes: str | None = None) -> Json:
        """Replace tags or notes of a run; None leaves them as they are, empty ones are removed."""
        return self.patch(v1("runs", run_id), without_none(tags=None if tags is None else list(tags), notes=notes))

    def cancel(self, run_id: str) -> Json:
        return self.post(v1("runs", run_id, "cancel"))

    def pause(self, run_id: str) -> Json:
        return self.post(v1("runs", run_id, "pause"))

    def resume(self, run_id: str, *, timeout_seconds: float | None = None) -> Json:
        """Go on from the last checkpoint; ``timeout_seconds``: new limit on all attempts; 0: none; None: as it was."""
        body = None if timeout_seconds is None else {"timeout_seconds": timeout_seconds or None}
        return self.post(v1("runs", run_id, "resume"), body)

    def retry(self, run_id: str) -> Json:
        """Start a finished run from the beginning."""
        return self.post(v1("runs", run_id, "retry"))

    def delete(self, run_id: str) -> None:
        self.remove(v1("runs", run_id))

    def metrics(self, run_id: str, after: int = 0, after_id: int = 0) -> list[Json]:
        """Metric lines with a step above ``after``, or recorded after the line with the number ``after_id``."""
        return self.get(v1("runs", run_id, "metrics"), after=after, after_id=after_id)["items"]

    def logs(self, run_id: str, offset: int = 0) -> Json:
        """{"text", "offset"}: the log from byte ``offset``, and the next offset."""
        return self.get(v1("runs", run_id, "logs"), offset=offset)

    def artifacts(self, run_id: str) -> list[Json]:
        return self.get(v1("runs", run_id, "artifacts"))["items"]

    def artifact(self, run_id: str, name: str) -> bytes:
        return self.read(_artifact_path(run_id, name))

    def artifact_stream(self, run_id: str, name: str) -> AbstractContextManager[httpx.Response]:
        """A file of ``artifacts`` as a response to stream."""
        return self.stream(_artifact_path(run_id, name))

    def download_artifact(self, run_id: str, name: str, path: str | Path) -> Path:
        return self.download(_artifact_path(run_id, name), path)

    def events(self, run_id: str) -> Generator[Json]:
        """{"event": "state" | "metrics", "data"} until the run ends. A broken connection is resumed."""
        last_id, breaks = "", 0
        while True:
            headers = {"accept": "text/event-stream", **({"last-event-id": last_id} if last_id else {})}
            try:
                with self.stream(v1("runs", run_id, "events"), headers=headers, timeout=EVENT_TIMEOUT) as response:
                    for event in parse_events(response.iter_lines()):
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

    def specs(self) -> list[Json]:
        """{"kind", "description", "presets"} of every kind of run, and of studies."""
        return self.get(v1("specs"))["items"]

    def spec_schema(self, kind: str) -> Json:
        """{"schema": JSON schema, "presets": {name: spec}}."""
        return self.get(v1("specs", kind))

    def estimate(self, kind: str, spec: Mapping[str, Any], resource: str | None = None) -> Json:
        """Expected seconds, memory, operations and disk of a pretrain run; nothing is queued."""
        body = without_none(spec=dict(spec), resource=resource)
        return self.post(v1("specs", kind, "estimate"), body, repeatable=True)

    def submit_study(
        self, spec: Mapping[str, Any], name: str | None = None, idempotency_key: str | None = None
    ) -> Json:
        """Queue the runs of a study; ``idempotency_key`` as of ``submit``."""
        return self.post_once(v1("studies"), {"spec": dict(spec), "name": name}, idempotency_key or uuid.uuid4().hex)

    def plan_study(self, spec: Mapping[str, Any]) -> Json:
        """{"rows", "seeds", "cells", "reused"}: what a submission would run; nothing is queued."""
        return self.post(v1("studies", "plan"), {"spec": dict(spec)}, repeatable=True)

    def studies(self, limit: int = 50, cursor: str | None = None) -> Json:
        """One page, newest first: {"items": […], "next_cursor": str or None}."""
        return self.get(v1("studies"), limit=limit, cursor=cursor)

    def study(self, study_id: str) -> Json:
        """Spec, state, cells with their runs, and the table so far."""
        return self.get(v1("studies", study_id))

    def cancel_study(self, study_id: str) -> Json:
        return self.post(v1("studies", study_id, "cancel"))

    def resume_study(self, study_id: str) -> Json:
        """Resume the failed and cancelled runs of a study; ``not_resumed`` has those whose time is used up."""
        return self.post(v1("studies", study_id, "resume"))

    def extend_study(self, study_id: str, **addition: Any) -> Json:
        """``addition``: seeds, axes (of the same names, with new variants), trials. A repeated call changes nothing."""
        return self.post(v1("studies", study_id, "extend"), addition, repeatable=True)

    def delete_study(self, study_id: str) -> None:
        """Runs and encoders of the study stay."""
        self.remove(v1("studies", study_id))

    def study_table(self, study_id: str, kind: str = "json") -> str:
        """The table as ``json`` or ``csv``, as text."""
        return self.send("GET", v1("studies", study_id, f"table.{kind}")).text

    def study_curves(self, study_id: str, value: str = "loss") -> Json:
        """{"value", "values", "rows": [{"labels", "points": [[step, mean, lowest, highest]]}]}."""
        return self.get(v1("studies", study_id, "curves"), value=value)

    def compare_rows(self, study_id: str, left: int, right: int) -> Json:
        """Two rows of the table, by number from 0: paired over ``seeds`` and ``samples``; ``notes`` on their data."""
        return self.get(v1("studies", study_id, "compare"), left=left, right=right)

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


def _artifact_path(run_id: str, name: str) -> str:
    return f"{v1('runs', run_id, 'artifacts')}/{quote(name)}"
