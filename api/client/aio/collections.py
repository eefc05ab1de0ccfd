# Made from api/client/collections.py by `python -m api.client.derivation`: change that one.
"""Calls about vector collections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote

from api.client.aio.transport import AsyncTransport
from api.client.collections import PAGE, Json
from api.client.inference import data_url


class AsyncCollectionCalls(AsyncTransport):
    async def collections(self) -> list[Json]:
        return (await self.get("/v1/collections"))["items"]

    async def collection(self, id_or_name: str) -> Json:
        return await self.get(f"/v1/collections/{quote(id_or_name, safe='')}")

    async def search(
        self,
        collection: str,
        *,
        text: str | None = None,
        image: bytes | None = None,
        vector: Sequence[float] | None = None,
        target: str = "images",
        k: int = 20,
        where: Mapping[str, str] | None = None,
    ) -> Json:
        """Nearest items to one text, image or vector, best first: {"hits": […], "took_ms"}."""
        query = {"text": text, "image": None if image is None else data_url(image), "vector": vector}
        given = {key: value for key, value in query.items() if value is not None}
        body = {**given, "target": target, "k": k, "where": dict(where or {})}
        return await self.post(f"/v1/collections/{quote(collection, safe='')}/search", body, repeatable=True)

    async def item_image(self, collection: str, item_id: str) -> bytes:
        path = f"/v1/collections/{quote(collection, safe='')}/items/{quote(item_id)}/image"
        return (await self.send("GET", path)).content

    async def collection_map(self, collection: str, limit: int = 2000) -> Json:
        """{"points": [{"id", "x", "y", "caption", "labels"}], "total"}: its pictures on a plane."""
        return await self.get(f"/v1/collections/{quote(collection, safe='')}/map", limit=limit)

    async def vectors(self, collection: str, target: str = "images") -> tuple[list[str], list[list[float]]]:
        """Every id with its vector, fetched page by page."""
        ids: list[str] = []
        rows: list[list[float]] = []
        path = f"/v1/collections/{quote(collection, safe='')}/vectors"
        while True:
            page = await self.get(path, target=target, offset=len(ids), limit=PAGE)
            ids += page["ids"]
            rows += page["vectors"]
            if not page["ids"] or len(ids) >= page["total"]:
                return ids, rows
