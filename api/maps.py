"""A collection's pictures as points on a plane."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from api.models import CollectionMap

if TYPE_CHECKING:
    from lcl_core.serving.collection import Collection

KEPT = 4  # maps of one open collection, of different sizes


class Maps:
    """Maps that were drawn of open collections, as JSON. Thread-safe.

    A collection that changes is opened as another object, so that what is kept here stays true.
    """

    def __init__(self) -> None:
        self._drawn: WeakKeyDictionary[Collection, dict[int, bytes]] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def json_of(self, collection: Collection, limit: int) -> bytes:
        """A ``CollectionMap`` of at most ``limit`` pictures."""
        limit = min(limit, collection.count("images"))
        with self._lock:
            known = self._drawn.get(collection, {}).get(limit)
        if known is not None:
            return known
        drawn = CollectionMap(points=map_points(collection, limit), total=len(collection)).model_dump_json().encode()
        with self._lock:
            maps = self._drawn.setdefault(collection, {})
            maps[limit] = drawn
            if len(maps) > KEPT:
                del maps[next(iter(maps))]
        return drawn


def map_points(collection: Any, limit: int) -> list[dict[str, Any]]:
    """{"id", "x", "y", "caption", "labels"} of at most ``limit`` pictures, evenly chosen from first to last.

    The axes are those of the chosen pictures' vectors; x and y lie in [-1, 1].
    """
    import numpy as np

    from lcl_core.serving import project

    total = collection.count("images")
    if not total:
        return []
    chosen = np.unique(np.linspace(0, total - 1, num=min(limit, total)).round().astype(int))
    points = project(collection.at("images", chosen)[1])
    items = (collection.record("images", place) for place in chosen.tolist())
    return [_point(item, place) for item, place in zip(items, points, strict=True)]


def _point(item: dict[str, Any], place: Any) -> dict[str, Any]:
    caption = next(iter(item.get("captions", [])), "")
    labels = {name: str(value) for name, value in item.get("labels", {}).items()}
    return {"id": item["id"], "x": float(place[0]), "y": float(place[1]), "caption": caption, "labels": labels}
