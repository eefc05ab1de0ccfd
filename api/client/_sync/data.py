"""Calls about datasets and vector collections."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict
from urllib.parse import quote, urlencode

from api.client._sync.inference import data_url
from api.client._sync.transport import Transport

Json = dict[str, Any]


class DatasetCalls(Transport):
    def datasets(self) -> list[Json]:
        return self.get("/v1/datasets")["items"]

    def dataset(self, name: str) -> Json:
        return self.get(f"/v1/datasets/{quote(name, safe='')}")

    def dataset_versions(self, name: str) -> list[Json]:
        """What the name stood for, newest first: {"version", "content_hash", "path", "created_at", …}."""
        return self.get(f"/v1/datasets/{quote(name, safe='')}/versions")["items"]

    def validate_dataset(self, name: str, **examination: Any) -> Json:
        """Queue a run that examines a dataset. ``examination``: workers, tokens, similarity_threshold, min_image_side.

        Returns: the run; once it has succeeded, its result has the ``report``.
        """
        return self.post(f"/v1/datasets/{quote(name, safe='')}/validate", examination)

    def validate_path(
        self, path: str, format: str = "auto", options: Mapping[str, Any] | None = None, **examination: Any
    ) -> Json:
        """The same for what lies at ``path`` on the server, in whatever format; nothing is registered."""
        body = {"path": path, "format": format, "options": dict(options or {}), **examination}
        return self.post("/v1/datasets/validate", body)

    def register_dataset(self, name: str, path: str, new_version: bool = False) -> Json:
        """``path`` lies on the server, or is a URL, inside its data roots. ``new_version``: the name may exist."""
        return self.post("/v1/datasets", {"name": name, "path": path, "new_version": new_version})

    def delete_dataset(self, name: str) -> None:
        """With its versions, unless something needs it; a corpus in the data roots stays. For its owner and admins."""
        self.send("DELETE", f"/v1/datasets/{quote(name, safe='')}")

    def dataset_statistics(self, name: str) -> Json:
        return self.get(f"/v1/datasets/{quote(name, safe='')}/statistics")

    def dataset_documents(
        self,
        name: str,
        offset: int = 0,
        limit: int = 20,
        view: str = "interleaved",
        split: str | None = None,
        source: str | None = None,
        tokens: bool = False,
    ) -> Json:
        """{"items": [{"id", "segments": [{"text"} | {"image", "image_url"}]}], "total", "offset", "splits", "sources"}.

        ``tokens``: with the number of tokens of each segment.
        """
        where = {"offset": offset, "limit": limit, "view": view, "split": split, "source": source}
        return self.get(f"/v1/datasets/{quote(name, safe='')}/documents", **where, tokens=tokens or None)

    def dataset_image(self, name: str, image: str) -> bytes:
        return self.send("GET", f"/v1/datasets/{quote(name, safe='')}/images/{quote(image)}").content


VECTORS_PER_PAGE = 1000


class _RequiredImage(TypedDict):
    image: bytes


class NewItem(_RequiredImage, total=False):
    """A picture to add: an image file's bytes, and what is known of it.

    Without a ``name`` it goes by its bytes, so that the same picture is there once.
    """

    name: str
    captions: list[str]
    labels: dict[str, str]
    split: str
    source: str


def _collection_path(collection: str) -> str:
    return f"/v1/collections/{quote(collection, safe='')}"


class CollectionCalls(Transport):
    def collections(self) -> list[Json]:
        return self.get("/v1/collections")["items"]

    def collection(self, id_or_name: str) -> Json:
        return self.get(_collection_path(id_or_name))

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
        return self.post(f"{_collection_path(collection)}/search", body, repeatable=True)

    def duplicates(self, collection: str, *, threshold: float = 0.95, offset: int = 0, limit: int = 20) -> Json:
        """Groups of near-duplicates, the largest first: {"groups": [{"size", "items"}], "total"}."""
        path = f"/v1/collections/{quote(collection, safe='')}/duplicates"
        return self.get(path, threshold=threshold, offset=offset, limit=limit)

    def item(self, collection: str, item_id: str) -> Json:
        """A picture's record: captions, labels, split, source, image_url."""
        return self.get(f"/v1/collections/{quote(collection, safe='')}/items/{quote(item_id, safe='')}")

    def item_image(self, collection: str, item_id: str) -> bytes:
        path = f"{_collection_path(collection)}/items/{quote(item_id)}/image"
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
        path = f"{_collection_path(collection)}/items"
        headers = {"idempotency-key": idempotency_key or uuid.uuid4().hex}
        body = {"items": pictures, "replace": replace}
        return self.send("POST", path, json=body, headers=headers, repeatable=True).json()

    def remove_item(self, collection: str, item_id: str) -> None:
        self.send("DELETE", f"{_collection_path(collection)}/items/{quote(item_id, safe='')}")

    def delete_collection(self, id_or_name: str) -> None:
        """With its folder; for its owner and admins."""
        self.send("DELETE", _collection_path(id_or_name))

    def export_collection(self, id_or_name: str, path: str | Path, target: str = "images") -> Path:
        """Write what it holds now to ``path``: JSON lines of records and vectors."""
        return self.download(f"{_collection_path(id_or_name)}/export?{urlencode({'target': target})}", path)

    def collection_map(self, collection: str, limit: int = 2000) -> Json:
        """{"points": [{"id", "x", "y", "caption", "labels"}], "total"}: its pictures on a plane."""
        return self.get(f"{_collection_path(collection)}/map", limit=limit)

    def vectors(self, collection: str, target: str = "images") -> tuple[list[str], list[list[float]]]:
        """Every id with its vector, fetched page by page."""
        ids: list[str] = []
        rows: list[list[float]] = []
        path = f"{_collection_path(collection)}/vectors"
        while True:
            page = self.get(path, target=target, offset=len(ids), limit=VECTORS_PER_PAGE)
            ids += page["ids"]
            rows += page["vectors"]
            if not page["ids"] or len(ids) >= page["total"]:
                return ids, rows
