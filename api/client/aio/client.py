# Made from api/client/client.py by `python -m api.client.derivation`: change that one.
"""All calls in one object."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from api.client.aio.collections import AsyncCollectionCalls
from api.client.aio.corpora import AsyncDatasetCalls
from api.client.aio.garbage import AsyncGarbageCalls
from api.client.aio.pictures import AsyncPictureCalls
from api.client.aio.runs import AsyncRunCalls
from api.client.aio.studies import AsyncStudyCalls
from api.client.aio.webhooks import AsyncWebhookCalls
from api.client.aio.writing import AsyncWritingCalls
from api.client.client import Json


class AsyncClient(
    AsyncRunCalls,
    AsyncStudyCalls,
    AsyncDatasetCalls,
    AsyncPictureCalls,
    AsyncWritingCalls,
    AsyncCollectionCalls,
    AsyncWebhookCalls,
    AsyncGarbageCalls,
):
    """Speaks to one service with one key. A context manager; safe to share."""

    async def health(self) -> Json:
        """What ``/readyz`` says: {"ready": bool, "checks": {name: {"ok", "detail"}}}, also when not ready."""
        return (await self.send("GET", "/readyz", expected=(503,))).json()

    async def workers(self) -> list[Json]:
        return (await self.get("/v1/workers"))["items"]

    async def quotas(self) -> list[Json]:
        """{"owner", "runs", "runs_limit", "bytes", "bytes_limit"}: the key's own; with an admin's key everybody's."""
        return (await self.get("/v1/quotas"))["items"]

    async def keys(self) -> list[Json]:
        return (await self.get("/v1/keys"))["items"]

    async def own_key(self) -> Json:
        """Owner, role and expiry of the key that asks."""
        return await self.get("/v1/keys/mine")

    async def create_key(self, owner: str, role: str, expires: str | None = None) -> Json:
        """``role``: viewer, submitter or admin; ``expires``: ISO time. The answer's ``key`` is shown this once."""
        return await self.post("/v1/keys", {"owner": owner, "role": role, "expires": expires})

    async def rotate_key(self, prefix: str, grace_seconds: int | None = None) -> Json:
        """A new secret, the answer's ``key``; the old one stays valid for the grace (the service's default: a day)."""
        body = None if grace_seconds is None else {"grace_seconds": grace_seconds}
        return await self.post(f"/v1/keys/{quote(prefix, safe='')}/rotate", body)

    async def audit(self, **query: Any) -> Json:
        """{"items", "next_cursor"}: who did what, newest first; ``query``: owner, action, object, limit, cursor."""
        return await self.get("/v1/audit", **query)

    async def revoke_key(self, prefix: str) -> None:
        await self.send("DELETE", f"/v1/keys/{quote(prefix, safe='')}")
