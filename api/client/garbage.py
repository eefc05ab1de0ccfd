"""Calls about what no row names, for admins."""

from __future__ import annotations

from typing import Any

from api.client.transport import Transport

Json = dict[str, Any]


class GarbageCalls(Transport):
    def garbage(self) -> Json:
        """{"items": […], "bytes": int}: what lies in the home for nothing."""
        return self.get("/v1/garbage")

    def collect_garbage(self) -> Json:
        """Remove what is due; the same shape, of what is removed."""
        return self.post("/v1/garbage/collect", {})
