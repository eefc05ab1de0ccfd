"""The client: all calls in one object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from api.client._async.data import AsyncCollectionCalls, AsyncDatasetCalls
from api.client._async.inference import AsyncEncoderCalls
from api.client._async.runs import AsyncRunCalls, AsyncStudyCalls
from api.client.payloads import Json


class AsyncClient(AsyncRunCalls, AsyncStudyCalls, AsyncDatasetCalls, AsyncEncoderCalls, AsyncCollectionCalls):
    """Calls one service with one key. A context manager; safe to share."""

    async def health(self) -> Json:
        """The response of ``/readyz``: {"ready": bool, "checks": {name: {"ok", "detail"}}, "loading": int}, also when
        not ready. ``loading``: calls that wait for an encoder to be loaded.
        """
        return (await self.send("GET", "/readyz", expected=(503,))).json()

    async def workers(self) -> list[Json]:
        return (await self.get("/v1/workers"))["items"]

    async def quotas(self) -> list[Json]:
        """{"owner", "runs", "runs_limit", "bytes", "bytes_limit"} of the owner; for admins of everybody."""
        return (await self.get("/v1/quotas"))["items"]

    async def keys(self) -> list[Json]:
        return (await self.get("/v1/keys"))["items"]

    async def own_key(self) -> Json:
        """Owner, role and expiry of the key of this client."""
        return await self.get("/v1/keys/mine")

    async def create_key(self, owner: str, role: str, expires: str | None = None) -> Json:
        """``role``: viewer, submitter or admin; ``expires``: ISO time. ``key`` of the response is shown only here."""
        return await self.post("/v1/keys", {"owner": owner, "role": role, "expires": expires})

    async def rotate_key(self, prefix: str, grace_seconds: int | None = None) -> Json:
        """``key`` of the response is the new secret; the old one stays valid for the grace (default: a day)."""
        body = None if grace_seconds is None else {"grace_seconds": grace_seconds}
        return await self.post(f"/v1/keys/{quote(prefix, safe='')}/rotate", body)

    async def revoke_key(self, prefix: str) -> None:
        await self.send("DELETE", f"/v1/keys/{quote(prefix, safe='')}")

    async def audit(self, **query: Any) -> Json:
        """{"items", "next_cursor"}: audit log, newest first; ``query``: owner, action, object, limit, cursor."""
        return await self.get("/v1/audit", **query)

    async def create_webhook(self, url: str, events: Sequence[str] = ()) -> Json:
        """``secret`` of the response is shown only here. ``events``: such as "run.failed"; default: every event."""
        return await self.post("/v1/webhooks", {"url": url, **({"events": list(events)} if events else {})})

    async def webhooks(self) -> list[Json]:
        return (await self.get("/v1/webhooks"))["items"]

    async def deliveries(self, webhook_id: str) -> list[Json]:
        """The last messages to a webhook, newest first."""
        return (await self.get(f"/v1/webhooks/{quote(webhook_id, safe='')}/deliveries"))["items"]

    async def delete_webhook(self, webhook_id: str) -> None:
        await self.send("DELETE", f"/v1/webhooks/{quote(webhook_id, safe='')}")

    async def garbage(self) -> Json:
        """{"items": […], "bytes": int}: files in the service's home that no row refers to."""
        return await self.get("/v1/garbage")

    async def collect_garbage(self) -> Json:
        """Remove the garbage that is due; the response has the shape of ``garbage``, with what was removed."""
        return await self.post("/v1/garbage/collect", {})
