"""The client: all calls in one object, and the calls about health, keys, quotas, webhooks and garbage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from api.client._async.data import AsyncCollectionCalls, AsyncDatasetCalls
from api.client._async.inference import AsyncFolderCalls, AsyncGenerationCalls
from api.client._async.runs import AsyncRunCalls, AsyncStudyCalls
from api.client._async.transport import AsyncTransport
from api.client._sync.client import Json


class AsyncGarbageCalls(AsyncTransport):
    async def garbage(self) -> Json:
        """{"items": […], "bytes": int}: what lies in the home for nothing."""
        return await self.get("/v1/garbage")

    async def collect_garbage(self) -> Json:
        """Remove what is due; the same shape, of what is removed."""
        return await self.post("/v1/garbage/collect", {})


class AsyncWebhookCalls(AsyncTransport):
    async def create_webhook(self, url: str, events: Sequence[str] = ()) -> Json:
        """The answer's ``secret`` is shown this once. ``events``: such as "run.failed"; none: every one."""
        return await self.post("/v1/webhooks", {"url": url, **({"events": list(events)} if events else {})})

    async def webhooks(self) -> list[Json]:
        return (await self.get("/v1/webhooks"))["items"]

    async def deliveries(self, webhook_id: str) -> list[Json]:
        """The last messages to it, newest first."""
        return (await self.get(f"/v1/webhooks/{quote(webhook_id, safe='')}/deliveries"))["items"]

    async def delete_webhook(self, webhook_id: str) -> None:
        await self.send("DELETE", f"/v1/webhooks/{quote(webhook_id, safe='')}")


class AsyncClient(
    AsyncRunCalls,
    AsyncStudyCalls,
    AsyncDatasetCalls,
    AsyncFolderCalls,
    AsyncGenerationCalls,
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
