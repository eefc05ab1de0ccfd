"""Maps, near-duplicate pages, query vectors and stored images of collections. Imports numpy and Pillow."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from safetensors.numpy import save

from lcl_core.collections.changes import read_set
from lcl_core.collections.collection import Collection, Hit
from lcl_core.collections.file_format import PREFIXES
from lcl_core.collections.file_format import item_id as item_id
from lcl_core.collections.labels import LabelIndexBuilder
from lcl_core.collections.projection import NEIGHBOURS, kept_neighbours, project_pca, spread_rows
from lcl_core.collections.vector_index import combine_vectors, unit_vector
from lcl_core.common.errors import UserError
from lcl_core.data.image_decoding import thumbnail as thumbnail

if TYPE_CHECKING:
    from api.services.search import SearchQuery

MAX_MAPS = 4  # of one open collection, by format and number of points
MAX_LABEL_VALUES = 300  # of a label in a map's file; one with more, such as the file name, is no colour
DUPLICATES_SECONDS = 90.0  # after which a search for near-duplicates gives up
MAX_GROUP_ITEMS = 100  # images listed of one group


def query_vector(query: SearchQuery, embedded: dict[str, Any], collection: Collection) -> Any:
    """f32 [E] of length 1: weighted sum of the query's parts; None: its text has no vector, and no other part counts.

    Args:
        embedded: vectors of the image and of the text, as far as they have one.

    Raises: UserError naming the part, or ``invalid_value``.
    """
    parts, weights = dict(embedded), query.weights.as_dict()
    if query.vector is not None:
        parts["vector"] = query.vector
    if query.item is not None:
        try:
            parts["item"] = collection.vector(query.item)
        except UserError as error:
            error.field = "item"
            raise
    without_text = query.text is not None and "text" not in parts
    if without_text and not any(weights.get(part, 1) for part in parts):
        for part, vector in parts.items():
            unit_vector(vector, collection.dim, part)  # refused also where it does not count
        return None
    return combine_vectors(parts, weights, collection.dim)


class MapCache:
    """Files of maps of open collections. One thread at a time calls it. A changed collection is another object."""

    def __init__(self) -> None:
        self._maps: WeakKeyDictionary[Collection, dict[tuple[str, int], bytes]] = WeakKeyDictionary()

    def get_file(self, collection: Collection, limit: int, method: str) -> bytes:
        """The file of ``map_file`` with at most ``limit`` images. Blocks."""
        key = (method, min(limit, collection.count("images")))
        maps = self._maps.setdefault(collection, {})
        if key not in maps:
            maps[key] = map_file(collection, key[1], method)
            if len(maps) > MAX_MAPS:
                del maps[next(iter(maps))]
        return maps[key]


def map_file(collection: Collection, limit: int, method: str) -> bytes:
    """The map of at most ``limit`` images, evenly chosen, as a safetensors file.

    By ``pca`` its axes are the two principal components, also by ``tsne`` where the index run left no places; these
    keep neighbours together, and distances between groups mean nothing.

    Tensors: ``points`` f32 [n, 2] within [-1, 1]; ``ids`` u64 [n], the numbers of the ids ``img_%016x``; for each label
    with up to ``MAX_LABEL_VALUES`` values ``label.NAME`` i16 [n], a position in its values, -1 where an image has none.
    Metadata, texts all: ``method``, ``total`` images of the collection, ``variance`` and ``neighbours_kept``, shares of
    0 to 1 (the first empty by t-SNE, the second where there are too few images), ``neighbours`` compared of each image,
    and ``labels``, {label: its values} as JSON.
    """
    total = collection.count("images")
    placed = collection.neighbour_places() if method == "tsne" else None
    chosen = spread_rows(total if placed is None else len(placed[0]), limit)
    if placed is not None:
        chosen, points, variance = placed[0][chosen], placed[1][chosen], ""
    ids, vectors = collection.at("images", chosen.tolist())
    if placed is None:
        projected = project_pca(vectors)
        points, variance = projected.points, f"{projected.variance:.4f}"
    kept = kept_neighbours(vectors, points)
    keys = [int(item.removeprefix(PREFIXES["images"]), 16) for item in ids]
    tensors = {"points": points, "ids": np.array(keys, dtype=np.uint64)}
    codes, values = _label_codes(collection, chosen.tolist())
    tensors |= {f"label.{name}": column for name, column in codes.items()}
    metadata = {
        "method": "pca" if placed is None else "tsne",
        "total": str(total),
        "variance": variance,
        "neighbours": str(NEIGHBOURS),
        "neighbours_kept": "" if kept is None else f"{kept:.4f}",
        "labels": json.dumps(values, ensure_ascii=False),
    }
    return save(tensors, metadata)


def _label_codes(collection: Collection, rows: list[int]) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """i16 [n] of each label with few values, and the values, of a set its members in one text; split and source count
    as labels."""
    labels, types = LabelIndexBuilder(), collection.label_types()
    for row in rows:
        record = collection.record("images", row)
        found = {name: record.get(name) for name in ("split", "source")} | dict(record.get("labels", {}))
        written = {name: str(value) for name, value in found.items() if value}
        sets = {name: ", ".join(read_set(value)) for name, value in written.items() if types.get(name) == "set"}
        labels.add(written | sets)
    few = {name: column for name, column in labels.columns().items() if len(column.texts) <= MAX_LABEL_VALUES}
    codes = {name: column.codes.astype(np.int16) for name, column in few.items()}
    return codes, {name: column.texts for name, column in few.items()}


class DuplicateCache:
    """Near-duplicate groups of open collections, for the last threshold of each. One thread at a time calls it."""

    def __init__(self) -> None:
        self._groups: WeakKeyDictionary[Collection, tuple[float, list[list[str]]]] = WeakKeyDictionary()

    def page(self, collection: Collection, threshold: float, part: slice) -> tuple[list[tuple[int, list[Hit]]], int]:
        """(size, first images) of each group of a page, and the number of groups. Blocks.

        Raises: UserError ``too_large``.
        """
        cached, groups = self._groups.get(collection, (-1.0, []))
        if cached != threshold:
            groups = collection.duplicates(threshold, DUPLICATES_SECONDS)
            self._groups[collection] = threshold, groups
        return [(len(ids), collection.group(ids[:MAX_GROUP_ITEMS])) for ids in groups[part]], len(groups)
