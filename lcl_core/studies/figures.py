"""The figures that a table asks for, read from the results of runs."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import Any

from lcl_core.specs import MetricSpec
from lcl_core.studies.facts import CellFacts
from lcl_core.studies.numbers import is_number
from lcl_core.studies.states import SUCCEEDED

SELECTORS = ("task", "split", "variant", "transfer", "metric")


@dataclass(frozen=True)
class Figure:
    """A metric's value for one cell.

    Attributes:
        chance, untrained: as the evaluation gives them; none of a training's figure.
        rows: how many rows of the evaluation it is the mean of.
    """

    value: float
    chance: float | None = None
    untrained: float | None = None
    rows: int = 1


def figure_of(metric: MetricSpec, cell: CellFacts) -> Figure | None:
    """None as long as the run that it is a figure of has not succeeded, or when its result has no such figure."""
    if metric.of == "training":
        value = (cell.run.result.get("final") or {}).get(metric.metric)
        return Figure(float(value)) if is_number(value) else None
    if cell.evaluation is None or cell.evaluation.state != SUCCEEDED:
        return None
    rows = [row for row in cell.evaluation.result.get("rows", ()) if _fits(metric, row) and is_number(row.get("value"))]
    if not rows:
        return None
    return Figure(fmean(row["value"] for row in rows), _mean(rows, "chance"), _mean(rows, "untrained"), len(rows))


def _fits(metric: MetricSpec, row: dict[str, Any]) -> bool:
    wanted = {key: getattr(metric, key) for key in SELECTORS}
    return all(value is None or row.get(key) == value for key, value in wanted.items())


def _mean(rows: list[dict[str, Any]], key: str) -> float | None:
    values = [value for row in rows if is_number(value := row.get(key))]
    return fmean(values) if len(values) == len(rows) else None
