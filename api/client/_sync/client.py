"""The client: all calls in one object, and the calls about health, keys, quotas, webhooks and garbage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from api.client._sync.data import CollectionCalls, DatasetCalls
from api.client._sync.inference import FolderCalls, GenerationCalls
from api.client._sync.runs import RunCalls, StudyCalls
from api.client._sync.transport import Transport

Json = dict[str, Any]


class GarbageCalls(Transport):
    def garbage(self) -> Json:
        """{"items": […], "bytes": int}: what lies in the home for nothing."""
        return self.get("/v1/garbage")

    def collect_garbage(self) -> Json:
        """Remove what is due; the same shape, of what is removed."""
        return self.post("/v1/garbage/collect", {})


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


class Client(
    RunCalls,
    StudyCalls,
    DatasetCalls,
    FolderCalls,
    GenerationCalls,
    CollectionCalls,
    WebhookCalls,
    GarbageCalls,
):
    """Speaks to one service with one key. A context manager; safe to share."""

    def health(self) -> Json:
        """What ``/readyz`` says: {"ready": bool, "checks": {name: {"ok", "detail"}}}, also when not ready."""
        return self.send("GET", "/readyz", expected=(503,)).json()

    def workers(self) -> list[Json]:
        return self.get("/v1/workers")["items"]

    def quotas(self) -> list[Json]:
        """{"owner", "runs", "runs_limit", "bytes", "bytes_limit"}: the key's own; with an admin's key everybody's."""
        return self.get("/v1/quotas")["items"]

    def keys(self) -> list[Json]:
        return self.get("/v1/keys")["items"]

    def own_key(self) -> Json:
        """Owner, role and expiry of the key that asks."""
        return self.get("/v1/keys/mine")

    def create_key(self, owner: str, role: str, expires: str | None = None) -> Json:
        """``role``: viewer, submitter or admin; ``expires``: ISO time. The answer's ``key`` is shown this once."""
        return self.post("/v1/keys", {"owner": owner, "role": role, "expires": expires})

    def rotate_key(self, prefix: str, grace_seconds: int | None = None) -> Json:
        """A new secret, the answer's ``key``; the old one stays valid for the grace (the service's default: a day)."""
        body = None if grace_seconds is None else {"grace_seconds": grace_seconds}
        return self.post(f"/v1/keys/{quote(prefix, safe='')}/rotate", body)

    def audit(self, **query: Any) -> Json:
        """{"items", "next_cursor"}: who did what, newest first; ``query``: owner, action, object, limit, cursor."""
        return self.get("/v1/audit", **query)

    def revoke_key(self, prefix: str) -> None:
        self.send("DELETE", f"/v1/keys/{quote(prefix, safe='')}")
