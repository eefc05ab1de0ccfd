"""Figures of two encoders brought into one table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# What makes two figures comparable: the same question on the same data.
KEYS = ("task", "split", "variant", "metric", "dataset", "dataset_hash")


def compared(left: Sequence[dict[str, Any]], right: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a figure that both have, from the newest evaluation of each; ``difference`` is right minus left."""
    first, second = _newest(left), _newest(right)
    rows = []
    for key, row in first.items():
        if key in second:
            before, after = row["value"], second[key]["value"]
            values = {"left": before, "right": after, "difference": _difference(before, after)}
            rows.append({**dict(zip(KEYS, key, strict=True)), **values, "chance": row.get("chance")})
    return rows


def _newest(rows: Sequence[dict[str, Any]]) -> dict[tuple[Any, ...], dict[str, Any]]:
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:  # newest first
        found.setdefault(tuple(row.get(key) for key in KEYS), row)
    return found


def _difference(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else right - left
