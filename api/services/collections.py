"""Collections: export as JSON lines, maps of principal components, groups of near-duplicates.

An export is JSON lines, not Parquet: rows are made and read one by one in constant memory, and a download that breaks
off is good up to its last whole line. Maps and groups are cached per open collection.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from anyio import CapacityLimiter

from api.schemas.base import CollectionMap

if TYPE_CHECKING:
    from lcl_core.collections.collection import Collection, Hit
    from lcl_core.collections.file_format import Target


ROWS_PER_CHUNK = 128


def stream_vectors(collection: Collection, target: Target) -> Iterator[bytes]:
    """A piece for some rows: the record of each with ``encoder_hash``, and its ``vector`` to the last bit of f32."""
    count, width = collection.count(target), collection.dim
    numbers = ", ".join(["%.9g"] * width)
    for start in range(0, count, ROWS_PER_CHUNK):
        places = range(start, min(start + ROWS_PER_CHUNK, count))
        _, vectors = collection.at(target, places)
        lines = []
        for place, vector in zip(places, vectors.astype("<f4"), strict=True):
            facts = {**collection.record(target, place), "encoder_hash": collection.encoder_hash}
            head = json.dumps(facts, ensure_ascii=False)[:-1]
            lines.append(f'{head}, "vector": [{numbers % tuple(vector.tolist())}]}}\n')
        yield "".join(lines).encode("utf-8", "replace")


MAX_MAPS = 4  # maps of one open collection, of different sizes


class MapCache:
    """Maps that were drawn of open collections, as JSON. Thread-safe.

    A collection that changes is opened as another object, so that what is kept here stays true.
    """

    def __init__(self) -> None:
        self._drawn: WeakKeyDictionary[Collection, dict[int, bytes]] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def get_json(self, collection: Collection, limit: int) -> bytes:
        """A ``CollectionMap`` of at most ``limit`` pictures."""
        limit = min(limit, collection.count("images"))
        with self._lock:
            known = self._drawn.get(collection, {}).get(limit)
        if known is not None:
            return known
        drawn = (
            CollectionMap(points=project_points(collection, limit), total=len(collection)).model_dump_json().encode()
        )
        with self._lock:
            maps = self._drawn.setdefault(collection, {})
            maps[limit] = drawn
            if len(maps) > MAX_MAPS:
                del maps[next(iter(maps))]
        return drawn


def project_points(collection: Any, limit: int) -> list[dict[str, Any]]:
    """{"id", "x", "y", "caption", "labels"} of at most ``limit`` pictures, evenly chosen from first to last.

    The axes are those of the chosen pictures' vectors; x and y lie in [-1, 1].
    """
    import numpy as np

    from lcl_core.collections.preview import pca_2d

    total = collection.count("images")
    if not total:
        return []
    chosen = np.unique(np.linspace(0, total - 1, num=min(limit, total)).round().astype(int))
    points = pca_2d(collection.at("images", chosen)[1])
    items = (collection.record("images", place) for place in chosen.tolist())
    return [_point_view(item, place) for item, place in zip(items, points, strict=True)]


def _point_view(item: dict[str, Any], place: Any) -> dict[str, Any]:
    caption = next(iter(item.get("captions", [])), "")
    labels = {name: str(value) for name, value in item.get("labels", {}).items()}
    return {"id": item["id"], "x": float(place[0]), "y": float(place[1]), "caption": caption, "labels": labels}


MAX_GROUP_ITEMS = 100  # pictures of one group


class DuplicateCache:
    """Finds in one thread at a time: it keeps a processor busy, and a page that waited has what was found for another.

    Of each open collection the groups of the threshold that was asked for last are kept.
    """

    def __init__(self) -> None:
        self.limiter = CapacityLimiter(1)
        self._found: WeakKeyDictionary[Collection, tuple[float, list[list[str]]]] = WeakKeyDictionary()

    def page(
        self, collection: Collection, threshold: float, seconds: float, places: slice
    ) -> tuple[list[tuple[int, list[Hit]]], int]:
        """(pictures, the first of them) of each group of a page, and how many groups there are. Blocks.

        Raises: UserError ``too_large``.
        """
        asked, groups = self._found.get(collection, (-1.0, []))
        if asked != threshold:
            groups = collection.duplicates(threshold, seconds)
            self._found[collection] = threshold, groups
        return [(len(ids), collection.group(ids[:MAX_GROUP_ITEMS])) for ids in groups[places]], len(groups)
