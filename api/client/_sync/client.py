# Generated from api/client/_async/client.py by scripts/generate_sync_client.py. Do not edit.
"""The client: all calls in one object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from api.client._sync.data import CollectionCalls, DatasetCalls
from api.client._sync.inference import EncoderCalls
from api.client._sync.runs import RunCalls, StudyCalls
from api.client.payloads import Json


class Client(RunCalls, StudyCalls, DatasetCalls, EncoderCalls, CollectionCalls):
    """Calls one service with one key. A context manager; safe to share."""

    def health(self) -> Json:
        """The response of ``/readyz``: {"ready": bool, "checks": {name: {"ok", "detail"}}, "loading": int}, also when
        not ready. ``loading``: calls that wait for an encoder to be loaded.
        """
        return (self.send("GET", "/readyz", expected=(503,))).json()

    def workers(self) -> list[Json]:
        return (self.get("/v1/workers"))["items"]

    def quotas(self) -> list[Json]:
        """{"owner", "runs", "runs_limit", "bytes", "bytes_limit"} of the owner; for admins of everybody."""
        return (self.get("/v1/quotas"))["items"]

    def keys(self) -> list[Json]:
        return (self.get("/v1/keys"))["items"]

    def own_key(self) -> Json:
        """Owner, role and expiry of the key of this client."""
        return self.get("/v1/keys/mine")

    def create_key(self, owner: str, role: str, expires: str | None = None) -> Json:
        """``role``: viewer, submitter or admin; ``expires``: ISO time. ``key`` of the response is shown only here."""
        return self.post("/v1/keys", {"owner": owner, "role": role, "expires": expires})

    def rotate_key(self, prefix: str, grace_seconds: int | None = None) -> Json:
        """``key`` of the response is the new secret; the old one stays valid for the grace (default: a day)."""
        body = None if grace_seconds is None else {"grace_seconds": grace_seconds}
        return self.post(f"/v1/keys/{quote(prefix, safe='')}/rotate", body)

    def revoke_key(self, prefix: str) -> None:
        self.send("DELETE", f"/v1/keys/{quote(prefix, safe='')}")

    def audit(self, **query: Any) -> Json:
        """{"items", "next_cursor"}: audit log, newest first; ``query``: owner, action, object, limit, cursor."""
        return self.get("/v1/audit", **query)

    def create_webhook(self, url: str, events: Sequence[str] = ()) -> Json:
        """``secret`` of the response is shown only here. ``events``: such as "run.failed"; default: every event."""
        return self.post("/v1/webhooks", {"url": url, **({"events": list(events)} if events else {})})

    def webhooks(self) -> list[Json]:
        return (self.get("/v1/webhooks"))["items"]

    def deliveries(self, webhook_id: str) -> list[Json]:
        """The last messages to a webhook, newest first."""
        return (self.get(f"/v1/webhooks/{quote(webhook_id, safe='')}/deliveries"))["items"]

    def delete_webhook(self, webhook_id: str) -> None:
        self.send("DELETE", f"/v1/webhooks/{quote(webhook_id, safe='')}")

    def garbage(self) -> Json:
        """{"items": […], "bytes": int}: files in the service's home that no row refers to."""
        return self.get("/v1/garbage")

    def collect_garbage(self) -> Json:
        """Remove the garbage that is due; the response has the shape of ``garbage``, with what was removed."""
        return self.post("/v1/garbage/collect", {})
