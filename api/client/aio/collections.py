# Made from api/client/collections.py by `python -m api.client.derivation`: change that one.
"""Calls about vector collections."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote, urlencode

from api.client.aio.transport import AsyncTransport
from api.client.collections import PAGE, Json, NewItem, _of
from api.client.inference import data_url


class AsyncCollectionCalls(AsyncTransport):
    async def collections(self) -> list[Json]:
        return (await self.get("/v1/collections"))["items"]

    async def collection(self, id_or_name: str) -> Json:
        return await self.get(_of(id_or_name))

    async def search(
        self,
        collection: str,
        *,
        text: str | None = None,
        image: bytes | None = None,
        vector: Sequence[float] | None = None,
        item: str | None = None,
        weights: Mapping[str, float] | None = None,
        target: str = "images",
        k: int = 20,
        where: Mapping[str, str | Sequence[str]] | None = None,
        offset: int = 0,
    ) -> Json:
        """Nearest items to a text, an image, a vector or an item, best first: {"hits": […], "took_ms"}.

        Args:
            item: id of a picture or text of the collection.
            offset: hits to leave out, which earlier pages had.
            weights: of several, how much each counts, by name: 1 where nothing is said; less than 0: away from it.
        """
        picture = None if image is None else data_url(image)
        query = {"text": text, "image": picture, "vector": vector, "item": item, "weights": weights}
        given = {key: value for key, value in query.items() if value is not None}
        body = {**given, "target": target, "k": k, "where": dict(where or {})}
        body |= {"offset": offset} if offset else {}
        return await self.post(f"{_of(collection)}/search", body, repeatable=True)

    async def duplicates(self, collection: str, *, threshold: float = 0.95, offset: int = 0, limit: int = 20) -> Json:
        """Groups of near-duplicates, the largest first: {"groups": [{"size", "items"}], "total"}."""
        path = f"/v1/collections/{quote(collection, safe='')}/duplicates"
        return await self.get(path, threshold=threshold, offset=offset, limit=limit)

    async def item(self, collection: str, item_id: str) -> Json:
        """A picture's record: captions, labels, split, source, image_url."""
        return await self.get(f"/v1/collections/{quote(collection, safe='')}/items/{quote(item_id, safe='')}")

    async def item_image(self, collection: str, item_id: str) -> bytes:
        path = f"{_of(collection)}/items/{quote(item_id)}/image"
        return (await self.send("GET", path)).content

    async def add_items(
        self,
        collection: str,
        items: Sequence[NewItem],
        *,
        replace: bool = False,
        idempotency_key: str | None = None,
    ) -> Json:
        """Add pictures, all of them or none: {"ids", "images": how many there are then}.

        ``idempotency_key`` makes a call that is sent twice count once; without one, each call gets its own.
        """
        pictures = [{**item, "image": data_url(item["image"])} for item in items]
        path = f"{_of(collection)}/items"
        headers = {"idempotency-key": idempotency_key or uuid.uuid4().hex}
        body = {"items": pictures, "replace": replace}
        return (await self.send("POST", path, json=body, headers=headers, repeatable=True)).json()

    async def remove_item(self, collection: str, item_id: str) -> None:
        await self.send("DELETE", f"{_of(collection)}/items/{quote(item_id, safe='')}")

    async def delete_collection(self, id_or_name: str) -> None:
        """With its folder; for its owner and admins."""
        await self.send("DELETE", _of(id_or_name))

    async def export_collection(self, id_or_name: str, path: str | Path, target: str = "images") -> Path:
        """Write what it holds now to ``path``: JSON lines of records and vectors."""
        return await self.download(f"{_of(id_or_name)}/export?{urlencode({'target': target})}", path)

    async def collection_map(self, collection: str, limit: int = 2000) -> Json:
        """{"points": [{"id", "x", "y", "caption", "labels"}], "total"}: its pictures on a plane."""
        return await self.get(f"{_of(collection)}/map", limit=limit)

    async def vectors(self, collection: str, target: str = "images") -> tuple[list[str], list[list[float]]]:
        """Every id with its vector, fetched page by page."""
        ids: list[str] = []
        rows: list[list[float]] = []
        path = f"{_of(collection)}/vectors"
        while True:
            page = await self.get(path, target=target, offset=len(ids), limit=PAGE)
            ids += page["ids"]
            rows += page["vectors"]
            if not page["ids"] or len(ids) >= page["total"]:
                return ids, rows
