"""Calls about vector collections."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict
from urllib.parse import quote, urlencode

from api.client.inference import data_url
from api.client.transport import Transport

Json = dict[str, Any]
PAGE = 1000


class _Picture(TypedDict):
    image: bytes


class NewItem(_Picture, total=False):
    """A picture to add: an image file's bytes, and what is known of it.

    Without a ``name`` it goes by its bytes, so that the same picture is there once.
    """

    name: str
    captions: list[str]
    labels: dict[str, str]
    split: str
    source: str


def _of(collection: str) -> str:
    return f"/v1/collections/{quote(collection, safe='')}"


class CollectionCalls(Transport):
    def collections(self) -> list[Json]:
        return self.get("/v1/collections")["items"]

    def collection(self, id_or_name: str) -> Json:
        return self.get(_of(id_or_name))

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
        return self.post(f"{_of(collection)}/search", body, repeatable=True)

    def duplicates(self, collection: str, *, threshold: float = 0.95, offset: int = 0, limit: int = 20) -> Json:
        """Groups of near-duplicates, the largest first: {"groups": [{"size", "items"}], "total"}."""
        path = f"/v1/collections/{quote(collection, safe='')}/duplicates"
        return self.get(path, threshold=threshold, offset=offset, limit=limit)

    def item(self, collection: str, item_id: str) -> Json:
        """A picture's record: captions, labels, split, source, image_url."""
        return self.get(f"/v1/collections/{quote(collection, safe='')}/items/{quote(item_id, safe='')}")

    def item_image(self, collection: str, item_id: str) -> bytes:
        path = f"{_of(collection)}/items/{quote(item_id)}/image"
        return self.send("GET", path).content

    def add_items(
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
        return self.send("POST", path, json=body, headers=headers, repeatable=True).json()

    def remove_item(self, collection: str, item_id: str) -> None:
        self.send("DELETE", f"{_of(collection)}/items/{quote(item_id, safe='')}")

    def delete_collection(self, id_or_name: str) -> None:
        """With its folder; for its owner and admins."""
        self.send("DELETE", _of(id_or_name))

    def export_collection(self, id_or_name: str, path: str | Path, target: str = "images") -> Path:
        """Write what it holds now to ``path``: JSON lines of records and vectors."""
        return self.download(f"{_of(id_or_name)}/export?{urlencode({'target': target})}", path)

    def collection_map(self, collection: str, limit: int = 2000) -> Json:
        """{"points": [{"id", "x", "y", "caption", "labels"}], "total"}: its pictures on a plane."""
        return self.get(f"{_of(collection)}/map", limit=limit)

    def vectors(self, collection: str, target: str = "images") -> tuple[list[str], list[list[float]]]:
        """Every id with its vector, fetched page by page."""
        ids: list[str] = []
        rows: list[list[float]] = []
        path = f"{_of(collection)}/vectors"
        while True:
            page = self.get(path, target=target, offset=len(ids), limit=PAGE)
            ids += page["ids"]
            rows += page["vectors"]
            if not page["ids"] or len(ids) >= page["total"]:
                return ids, rows
