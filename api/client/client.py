"""All calls in one object."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from api.client.collections import CollectionCalls
from api.client.corpora import DatasetCalls
from api.client.garbage import GarbageCalls
from api.client.pictures import PictureCalls
from api.client.runs import RunCalls
from api.client.studies import StudyCalls
from api.client.webhooks import WebhookCalls
from api.client.writing import WritingCalls

Json = dict[str, Any]


class Client(
    RunCalls,
    StudyCalls,
    DatasetCalls,
    PictureCalls,
    WritingCalls,
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
