"""Maps, near-duplicate pages, query vectors and stored images of collections. Imports numpy and Pillow."""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from anyio import CapacityLimiter

from api.schemas.collections import CollectionMap, MapPointView, SearchQuery
from lcl_core.collections import file_format
from lcl_core.collections.collection import Collection, Hit
from lcl_core.collections.preview import pca_2d, thumbnail
from lcl_core.collections.query import combine_vectors
from lcl_core.common.errors import UserError

MAX_MAPS = 4  # of one open collection, by number of points
MAX_GROUP_ITEMS = 100  # images listed of one group
MAX_STORED_IMAGE_BYTES = 200_000  # larger images are stored as thumbnails


def item_id(name: str) -> str:
    return f"{file_format.ITEM_PREFIX}{file_format.stable_hash64(name):016x}"


def stored_image(raw: bytes, image: Any) -> tuple[bytes, str]:
    """Bytes and media type of an image as the database stores it."""
    return thumbnail(raw, image, MAX_STORED_IMAGE_BYTES)


def query_vector(query: SearchQuery, embedded: dict[str, Any], collection: Collection) -> Any:
    """f32 [E] of length 1: weighted sum of the query's parts. Raises: UserError naming the part, or ``zero_query``."""
    parts = dict(embedded)
    if query.vector is not None:
        parts["vector"] = query.vector
    if query.item is not None:
        try:
            parts["item"] = collection.vector(query.item)
        except UserError as error:
            raise UserError(error.message, code=error.code, field="item") from error
    return combine_vectors(parts, query.weights.as_dict(), collection.dim)


class MapCache:
    """``CollectionMap`` of open collections as JSON. Thread-safe.

    A changed collection is another object, so that entries never become stale.
    """

    def __init__(self) -> None:
        self._maps: WeakKeyDictionary[Collection, dict[int, bytes]] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def get_json(self, collection: Collection, limit: int) -> bytes:
        """The map of at most ``limit`` images."""
        limit = min(limit, collection.count("images"))
        with self._lock:
            cached = self._maps.get(collection, {}).get(limit)
        if cached is not None:
            return cached
        points = [MapPointView(**point) for point in project_points(collection, limit)]
        drawn = CollectionMap(points=points, total=len(collection)).model_dump_json().encode()
        with self._lock:
            maps = self._maps.setdefault(collection, {})
            maps[limit] = drawn
            if len(maps) > MAX_MAPS:
                del maps[next(iter(maps))]
        return drawn


def project_points(collection: Any, limit: int) -> list[dict[str, Any]]:
    """Two principal components of at most ``limit`` images, evenly chosen; x and y lie in [-1, 1].

    Returns: {"id", "x", "y", "caption", "labels"} of each image.
    """
    total = collection.count("images")
    if not total:
        return []
    chosen = np.unique(np.linspace(0, total - 1, num=min(limit, total)).round().astype(int))
    points = pca_2d(collection.at("images", chosen)[1])
    items = (collection.record("images", index) for index in chosen.tolist())
    return [
        {
            "id": item["id"],
            "x": float(point[0]),
            "y": float(point[1]),
            "caption": next(iter(item.get("captions", [])), ""),
            "labels": {name: str(value) for name, value in item.get("labels", {}).items()},
        }
        for item, point in zip(items, points, strict=True)
    ]


class DuplicateCache:
    """Near-duplicate groups of open collections, for the last threshold of each. One thread at a time searches."""

    def __init__(self) -> None:
        self.limiter = CapacityLimiter(1)
        self._groups: WeakKeyDictionary[Collection, tuple[float, list[list[str]]]] = WeakKeyDictionary()

    def page(
        self, collection: Collection, threshold: float, seconds: float, part: slice
    ) -> tuple[list[tuple[int, list[Hit]]], int]:
        """(size, first images) of each group of a page, and the number of groups. Blocks.

        Raises: UserError ``too_large``.
        """
        cached, groups = self._groups.get(collection, (-1.0, []))
        if cached != threshold:
            groups = collection.duplicates(threshold, seconds)
            self._groups[collection] = threshold, groups
        return [(len(ids), collection.group(ids[:MAX_GROUP_ITEMS])) for ids in groups[part]], len(groups)
