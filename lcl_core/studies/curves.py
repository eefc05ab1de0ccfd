"""How training went: a figure of the metric lines over steps, row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from lcl_core.studies.facts import CellFacts, by_row
from lcl_core.studies.numbers import is_number

NO_CURVES = ("step", "total_steps", "id", "time")
MAX_POINTS = 200
Line = Mapping[str, Any]


def curves(cells: Sequence[CellFacts], lines: Mapping[str, Sequence[Line]], value: str) -> list[dict[str, Any]]:
    """One curve a row: {"labels", "rung", "points": [[step, mean, lowest, highest] over the seeds that are there]}.

    ``rung`` is None in a study that has none to climb.

    Args:
        lines: by run id, its metric lines in order.
        value: key of the lines to draw.
    """
    climbed = any(cell.rung for cell in cells)
    return [
        {
            "labels": row[0].labels,
            "rung": row[0].rung if climbed else None,
            "points": _thinned(_joined([lines.get(cell.run.id, ()) for cell in row], value)),
        }
        for row in by_row(cells)
    ]


def values_of(lines: Mapping[str, Sequence[Line]]) -> list[str]:
    """Every key that can be drawn: what is a number in the last line of a run, ``loss`` first if it is there."""
    last = [run[-1] for run in lines.values() if run]
    found = {key for line in last for key in line if is_number(line[key])}.difference(NO_CURVES)
    return sorted(found, key=lambda key: (key != "loss", key))


def _joined(runs: Sequence[Sequence[Line]], value: str) -> list[list[float]]:
    at: dict[int, list[float]] = {}
    for run in runs:
        for line in run:
            if is_number(number := line.get(value)):
                at.setdefault(line["step"], []).append(float(number))
    return [[step, fmean(found), min(found), max(found)] for step, found in sorted(at.items())]


def _thinned(points: list[list[float]]) -> list[list[float]]:
    """At most so many, evenly spaced, the first and the last among them."""
    if len(points) <= MAX_POINTS:
        return points
    stride = (len(points) - 1) / (MAX_POINTS - 1)
    return [points[round(place * stride)] for place in range(MAX_POINTS)]
