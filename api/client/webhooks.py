"""Calls about webhooks, for admins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from api.client.transport import Transport

Json = dict[str, Any]


class WebhookCalls(Transport):
    def create_webhook(self, url: str, events: Sequence[str] = ()) -> Json:
        """The answer's ``secret`` is shown this once. ``events``: such as "run.failed"; none: every one."""
        return self.post("/v1/webhooks", {"url": url, **({"events": list(events)} if events else {})})

    def webhooks(self) -> list[Json]:
        return self.get("/v1/webhooks")["items"]

    def deliveries(self, webhook_id: str) -> list[Json]:
        """The last messages to it, newest first."""
        return self.get(f"/v1/webhooks/{quote(webhook_id, safe='')}/deliveries")["items"]

    def delete_webhook(self, webhook_id: str) -> None:
        self.send("DELETE", f"/v1/webhooks/{quote(webhook_id, safe='')}")
