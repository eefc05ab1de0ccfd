"""A collection's pictures as points on a plane."""

from __future__ import annotations

from typing import Any

import numpy as np

from lcl_core.serving import project


def map_points(collection: Any, limit: int) -> list[dict[str, Any]]:
    """{"id", "x", "y", "caption", "labels"} of at most ``limit`` pictures, evenly chosen from first to last.

    The axes are those of the chosen pictures' vectors; x and y lie in [-1, 1].
    """
    total = collection.count("images")
    if not total:
        return []
    chosen = np.unique(np.linspace(0, total - 1, num=min(limit, total)).round().astype(int))
    points = project(collection.at("images", chosen)[1])
    items = (collection.record("images", place) for place in chosen.tolist())
    return [_point(item, place) for item, place in zip(items, points, strict=True)]


def _point(item: dict[str, Any], place: np.ndarray) -> dict[str, Any]:
    caption = next(iter(item.get("captions", [])), "")
    labels = {name: str(value) for name, value in item.get("labels", {}).items()}
    return {"id": item["id"], "x": float(place[0]), "y": float(place[1]), "caption": caption, "labels": labels}
