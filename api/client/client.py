"""All calls in one object."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from api.client.collections import CollectionCalls
from api.client.corpora import DatasetCalls
from api.client.inference import EncoderCalls
from api.client.runs import RunCalls

Json = dict[str, Any]


class Client(RunCalls, DatasetCalls, EncoderCalls, CollectionCalls):
    """Speaks to one service with one key. A context manager; safe to share between threads."""

    def health(self) -> Json:
        """What ``/readyz`` says: {"ready": bool, "checks": {name: {"ok", "detail"}}}, also when not ready."""
        return self.send("GET", "/readyz", expected=(503,)).json()

    def workers(self) -> list[Json]:
        return self.get("/v1/workers")["items"]

    def keys(self) -> list[Json]:
        return self.get("/v1/keys")["items"]

    def create_key(self, owner: str, role: str, expires: str | None = None) -> Json:
        """``role``: viewer, submitter or admin; ``expires``: ISO time. The answer's ``key`` is shown this once."""
        return self.post("/v1/keys", {"owner": owner, "role": role, "expires": expires})

    def revoke_key(self, prefix: str) -> None:
        self.send("DELETE", f"/v1/keys/{quote(prefix, safe='')}")
