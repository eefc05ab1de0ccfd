# Made from api/client/studies.py by `python -m api.client.derivation`: change that one.
"""Calls about studies."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from api.client.aio.transport import AsyncTransport
from api.client.studies import STUDY_ENDED, Json, _path


class AsyncStudyCalls(AsyncTransport):
    async def submit_study(
        self, spec: Mapping[str, Any], name: str | None = None, idempotency_key: str | None = None
    ) -> Json:
        """Queue the runs of a study. A key is made when none is given, so a repeated request never makes two."""
        headers = {"idempotency-key": idempotency_key or uuid.uuid4().hex}
        body = {"spec": dict(spec), "name": name}
        return (await self.send("POST", "/v1/studies", json=body, headers=headers, repeatable=True)).json()

    async def plan_study(self, spec: Mapping[str, Any]) -> Json:
        """{"rows", "seeds", "cells", "reused"}: what a submission would come to; nothing is queued."""
        return await self.post("/v1/studies/plan", {"spec": dict(spec)}, repeatable=True)

    async def studies(self, limit: int = 50, cursor: str | None = None) -> Json:
        """One page, newest first: {"items": […], "next_cursor": str or None}."""
        return await self.get("/v1/studies", limit=limit, cursor=cursor)

    async def study(self, study_id: str) -> Json:
        """Its spec, state, cells with their runs, and the table so far."""
        return await self.get(_path(study_id))

    async def cancel_study(self, study_id: str) -> Json:
        return await self.post(f"{_path(study_id)}/cancel")

    async def resume_study(self, study_id: str) -> Json:
        """Take up again what failed or was cancelled."""
        return await self.post(f"{_path(study_id)}/resume")

    async def extend_study(self, study_id: str, **addition: Any) -> Json:
        """``addition``: seeds, axes (of the same names, with new variants), trials. Asking twice changes nothing."""
        return await self.post(f"{_path(study_id)}/extend", addition, repeatable=True)

    async def delete_study(self, study_id: str) -> None:
        """Its runs and encoders stay."""
        await self.send("DELETE", _path(study_id))

    async def study_table(self, study_id: str, kind: str = "json") -> str:
        """The table as ``json``, ``csv`` or ``md``, as text."""
        return (await self.send("GET", f"{_path(study_id)}/table.{quote(kind, safe='')}")).text

    async def study_plot(self, study_id: str, name: str, kind: str = "svg", **wanted: str | None) -> bytes:
        """``name``: rows, pareto, scaling or curves. ``wanted``: metric, and for curves value."""
        given = {key: value for key, value in wanted.items() if value is not None}
        path = f"{_path(study_id)}/plots/{quote(name, safe='')}.{quote(kind, safe='')}"
        return (await self.send("GET", path, params=given)).content

    async def study_curves(self, study_id: str, value: str = "loss") -> Json:
        """{"value", "values", "rows": [{"labels", "rung", "points": [[step, mean, lowest, highest]]}]}."""
        return await self.get(f"{_path(study_id)}/curves", value=value)

    async def compare_rows(self, study_id: str, left: int, right: int) -> Json:
        """Two rows of the table, by number from 0: paired over ``seeds`` and over ``samples``."""
        return await self.get(f"{_path(study_id)}/compare", left=left, right=right)

    async def wait_for_study(
        self, study_id: str, on_change: Callable[[Json], None] | None = None, poll_seconds: float = 2.0
    ) -> Json:
        """Block until the study has ended; ``on_change`` gets it whenever a cell changed its state."""
        known: list[str] | None = None
        while True:
            study = await self.study(study_id)
            states = [cell["state"] for cell in study["cells"]]
            if on_change and states != known:
                on_change(study)
            known = states
            if study["state"] in STUDY_ENDED:
                return study
            await asyncio.sleep(poll_seconds)
