"""Calls about vector collections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from api.client.inference import data_url
from api.client.transport import Transport

Json = dict[str, Any]
PAGE = 1000


class CollectionCalls(Transport):
    def collections(self) -> list[Json]:
        return self.get("/v1/collections")["items"]

    def collection(self, id_or_name: str) -> Json:
        return self.get(f"/v1/collections/{quote(id_or_name, safe='')}")

    def search(
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
    ) -> Json:
        """Nearest items to a text, an image, a vector or an item, best first: {"hits": […], "took_ms"}.

        Args:
            item: id of a picture or text of the collection.
            weights: of several, how much each counts, by name: 1 where nothing is said; less than 0: away from it.
        """
        picture = None if image is None else data_url(image)
        query = {"text": text, "image": picture, "vector": vector, "item": item, "weights": weights}
        given = {key: value for key, value in query.items() if value is not None}
        body = {**given, "target": target, "k": k, "where": dict(where or {})}
        return self.post(f"/v1/collections/{quote(collection, safe='')}/search", body, repeatable=True)

    def duplicates(self, collection: str, *, threshold: float = 0.95, offset: int = 0, limit: int = 20) -> Json:
        """Groups of near-duplicates, the largest first: {"groups": [{"size", "items"}], "total"}."""
        path = f"/v1/collections/{quote(collection, safe='')}/duplicates"
        return self.get(path, threshold=threshold, offset=offset, limit=limit)

    def item(self, collection: str, item_id: str) -> Json:
        """A picture's record: captions, labels, split, source, image_url."""
        return self.get(f"/v1/collections/{quote(collection, safe='')}/items/{quote(item_id, safe='')}")

    def item_image(self, collection: str, item_id: str) -> bytes:
        path = f"/v1/collections/{quote(collection, safe='')}/items/{quote(item_id)}/image"
        return self.send("GET", path).content

    def collection_map(self, collection: str, limit: int = 2000) -> Json:
        """{"points": [{"id", "x", "y", "caption", "labels"}], "total"}: its pictures on a plane."""
        return self.get(f"/v1/collections/{quote(collection, safe='')}/map", limit=limit)

    def vectors(self, collection: str, target: str = "images") -> tuple[list[str], list[list[float]]]:
        """Every id with its vector, fetched page by page."""
        ids: list[str] = []
        rows: list[list[float]] = []
        path = f"/v1/collections/{quote(collection, safe='')}/vectors"
        while True:
            page = self.get(path, target=target, offset=len(ids), limit=PAGE)
            ids += page["ids"]
            rows += page["vectors"]
            if not page["ids"] or len(ids) >= page["total"]:
                return ids, rows
