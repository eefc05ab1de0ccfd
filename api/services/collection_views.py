"""Maps, near-duplicate pages, query vectors and stored images of collections. Imports numpy and Pillow."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from anyio import CapacityLimiter
from safetensors.numpy import save

from api.schemas.collections import CollectionMap, MapPointView, SearchQuery
from lcl_core.collections import file_format
from lcl_core.collections.collection import Collection, Hit
from lcl_core.collections.projection import NEIGHBOURS, kept_neighbours, project_pca
from lcl_core.collections.query import LabelIndexBuilder, combine_vectors
from lcl_core.collections.thumbnail import thumbnail
from lcl_core.common.errors import UserError

MAX_MAPS = 4  # of one open collection, by format and number of points
MAX_LABEL_VALUES = 300  # of a label in a map's file; one with more, such as the file name, is no colour
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
    """Maps of open collections as the service sends them. Thread-safe.

    A changed collection is another object, so that entries never become stale.
    """

    def __init__(self) -> None:
        self._maps: WeakKeyDictionary[Collection, dict[tuple[str, int], bytes]] = WeakKeyDictionary()
        self._lock, self._drawing = threading.Lock(), threading.Lock()

    def get_json(self, collection: Collection, limit: int) -> bytes:
        """``CollectionMap`` of at most ``limit`` images."""
        limit = min(limit, collection.count("images"))
        return self._find(collection, ("json", limit)) or self._keep(collection, ("json", limit), _map_json)

    def get_file(self, collection: Collection, limit: int) -> bytes:
        """The file of ``map_file`` with at most ``limit`` images. One thread at a time computes."""
        key = ("file", min(limit, collection.count("images")))
        found = self._find(collection, key)
        if found is None:
            with self._drawing:  # those who waited find what the first one has computed
                found = self._find(collection, key) or self._keep(collection, key, map_file)
        return found

    def _find(self, collection: Collection, key: tuple[str, int]) -> bytes | None:
        with self._lock:
            return self._maps.get(collection, {}).get(key)

    def _keep(self, collection: Collection, key: tuple[str, int], draw: Callable[[Collection, int], bytes]) -> bytes:
        drawn = draw(collection, key[1])
        with self._lock:
            maps = self._maps.setdefault(collection, {})
            maps[key] = drawn
            if len(maps) > MAX_MAPS:
                del maps[next(iter(maps))]
        return drawn


def _map_json(collection: Collection, limit: int) -> bytes:
    points = [MapPointView(**point) for point in project_points(collection, limit)]
    return CollectionMap(points=points, total=len(collection)).model_dump_json().encode()


def spread_rows(total: int, limit: int) -> np.ndarray:
    """int64: at most ``limit`` of the rows 0 to ``total`` - 1, evenly chosen."""
    return np.unique(np.linspace(0, max(0, total - 1), num=min(limit, total)).round().astype(np.int64))


def project_points(collection: Any, limit: int) -> list[dict[str, Any]]:
    """Two principal components of at most ``limit`` images, evenly chosen; x and y lie in [-1, 1].

    Returns: {"id", "x", "y", "caption", "labels"} of each image.
    """
    total = collection.count("images")
    if not total:
        return []
    chosen = spread_rows(total, limit)
    points = project_pca(collection.at("images", chosen)[1]).points
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


def map_file(collection: Collection, limit: int) -> bytes:
    """The map of at most ``limit`` images, evenly chosen, as a safetensors file.

    Tensors: ``points`` f32 [n, 2] within [-1, 1]; ``ids`` u64 [n], the numbers of the ids ``img_%016x``; for each label
    with up to ``MAX_LABEL_VALUES`` values ``label.NAME`` i16 [n], a position in its values, -1 where an image has none.
    Metadata, texts all: ``method``, ``total`` images of the collection, ``variance`` and ``neighbours_kept``, shares of
    0 to 1 (the second empty where there are too few images), ``neighbours`` compared of each image, and ``labels``,
    {label: its values} as JSON.
    """
    total = collection.count("images")
    chosen = spread_rows(total, limit)
    ids, vectors = collection.at("images", chosen.tolist())
    projected = project_pca(vectors)
    kept = kept_neighbours(vectors, projected.points)
    keys = [int(item.removeprefix(file_format.ITEM_PREFIX), 16) for item in ids]
    tensors = {"points": projected.points, "ids": np.array(keys, dtype=np.uint64)}
    codes, values = _label_codes(collection, chosen.tolist())
    tensors |= {f"label.{name}": column for name, column in codes.items()}
    metadata = {
        "method": "pca",
        "total": str(total),
        "variance": f"{projected.variance:.4f}",
        "neighbours": str(NEIGHBOURS),
        "neighbours_kept": "" if kept is None else f"{kept:.4f}",
        "labels": json.dumps(values, ensure_ascii=False),
    }
    return save(tensors, metadata)


def _label_codes(collection: Collection, rows: list[int]) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """i16 [n] of each label with few values, and the values; split and source count as labels."""
    labels = LabelIndexBuilder()
    for row in rows:
        record = collection.record("images", row)
        found = {name: record.get(name) for name in ("split", "source")} | dict(record.get("labels", {}))
        labels.add({name: str(value) for name, value in found.items() if value})
    values = labels.values()
    columns = dict(zip(values, labels.codes(), strict=True))
    few = {name: known for name, known in values.items() if len(known) <= MAX_LABEL_VALUES}
    return {name: columns[name].astype(np.int16) for name in few}, few


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
