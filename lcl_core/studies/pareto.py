"""What is worth its cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal


def pareto_front(points: Sequence[tuple[float, float]], better: Literal["higher", "lower"] = "higher") -> list[int]:
    """Places of the (cost, quality) that no other beats in one without losing in the other, cheapest first."""
    sign = 1.0 if better == "higher" else -1.0
    front: list[int] = []
    best = float("-inf")
    for place in sorted(range(len(points)), key=lambda place: (points[place][0], -sign * points[place][1])):
        quality = sign * points[place][1]
        if quality > best:
            front.append(place)
            best = quality
    return front
