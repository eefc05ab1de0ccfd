# Made from api/client/garbage.py by `python -m api.client.derivation`: change that one.
"""Calls about what no row names, for admins."""

from __future__ import annotations

from api.client.aio.transport import AsyncTransport
from api.client.garbage import Json


class AsyncGarbageCalls(AsyncTransport):
    async def garbage(self) -> Json:
        """{"items": […], "bytes": int}: what lies in the home for nothing."""
        return await self.get("/v1/garbage")

    async def collect_garbage(self) -> Json:
        """Remove what is due; the same shape, of what is removed."""
        return await self.post("/v1/garbage/collect", {})
