# Made from api/client/webhooks.py by `python -m api.client.derivation`: change that one.
"""Calls about webhooks, for admins."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from api.client.aio.transport import AsyncTransport
from api.client.webhooks import Json


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
