"""The table of a study as it stands: a line for every combination, its figures over the seeds, and what they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lcl_core.specs import HalvingSearch, StudySpec
from lcl_core.specs.study import TRIAL
from lcl_core.studies.columns import Column, columns_of
from lcl_core.studies.costs import costs_of
from lcl_core.studies.facts import CellFacts, by_row
from lcl_core.studies.figures import Figure
from lcl_core.studies.fits import power_law
from lcl_core.studies.pareto import pareto_front
from lcl_core.studies.states import SUCCEEDED, counted
from lcl_core.studies.statistics import deviation, holm, mean, paired, t_interval

Json = dict[str, Any]


def build_table(study: StudySpec, cells: Sequence[CellFacts], *, cancelled: bool = False) -> Json:
    """Everything that is known now, as JSON.

    Returns: ``axes``, ``parameters`` and ``metrics`` (the columns), ``rows``, and by the head of each metric
        ``comparisons`` with the row of number ``baseline``, the ``pareto`` front as numbers of rows, and the power law
        of the figure over ``compute`` as ``fits``.
    """
    columns, lines = columns_of(study), by_row(cells)
    rows = [_row(study, columns, line, cancelled) for line in lines]
    baseline = _baseline(study, rows)
    return {
        "axes": [axis.name for axis in study.axes] + ([TRIAL] if _searches(study) else []),
        "parameters": sorted({name for row in rows for name in row["parameters"]}),
        "metrics": [{**column.metric.model_dump(mode="json"), "name": column.head} for column in columns],
        "compute": study.compute,
        "rows": rows,
        "baseline": baseline,
        "comparisons": {column.head: _comparisons(column, rows, baseline) for column in columns},
        "pareto": {column.head: _front(study, column, rows) for column in columns},
        "fits": {column.head: _fit(study, column, rows) for column in columns},
        "provenance": _provenance(cells),
    }


def point_of(row: Json, head: str, compute: str) -> tuple[float, float] | None:
    """(cost, mean of the figure) of a row of the table; None while one of them is not known."""
    cost, figure = row["compute"][compute], row["figures"].get(head)
    return None if cost is None or figure is None else (cost, figure["mean"])


def _row(study: StudySpec, columns: Sequence[Column], cells: list[CellFacts], cancelled: bool) -> Json:
    first = cells[0]
    figures = {column.head: {cell.seed: column.figure(cell) for cell in cells} for column in columns}
    return {
        "labels": {axis: first.labels[axis] for axis in [axis.name for axis in study.axes]} | _trial(first),
        "parameters": first.parameters,
        "rung": first.rung if isinstance(study.search, HalvingSearch) else None,
        "steps": first.run.spec.get("steps"),
        "seeds": [cell.seed for cell in cells],
        "cells": [cell.number for cell in cells],
        "states": counted(cell.state(cancelled=cancelled) for cell in cells),
        "figures": {head: summary for head, found in figures.items() if (summary := _summary(found))},
        "compute": costs_of(cells),
    }


def _trial(cell: CellFacts) -> dict[str, str]:
    return {TRIAL: cell.labels[TRIAL]} if TRIAL in cell.labels else {}


def _searches(study: StudySpec) -> bool:
    return study.search.kind != "grid"


def _summary(found: dict[int, Figure | None]) -> Json | None:
    """A figure over the seeds that have it; None while none has."""
    known = {seed: figure for seed, figure in found.items() if figure is not None}
    if not known:
        return None
    values = [figure.value for figure in known.values()]
    return {
        "mean": mean(values),
        "sd": deviation(values),
        "interval": t_interval(values),
        "count": len(values),
        "values": {str(seed): figure.value for seed, figure in known.items()},
        "chance": mean([figure.chance for figure in known.values() if figure.chance is not None]),
        "untrained": mean([figure.untrained for figure in known.values() if figure.untrained is not None]),
        "averaged": max(figure.rows for figure in known.values()),
    }


def _baseline(study: StudySpec, rows: Sequence[Json]) -> int | None:
    """Number of the row that the others are compared with."""
    for number, row in enumerate(rows):
        if study.baseline is None or study.baseline.items() <= row["labels"].items():
            return number
    return None


def _comparisons(column: Column, rows: Sequence[Json], baseline: int | None) -> list[Json]:
    """Each other row minus the baseline over the seeds that both have, with p-values adjusted for being several."""
    if baseline is None:
        return []
    found = [
        {"row": number, **compared}
        for number, row in enumerate(rows)
        if number != baseline and (compared := compare_rows(column.head, rows[baseline], row))
    ]
    for comparison, p in zip(found, holm([comparison["p"] for comparison in found]), strict=True):
        comparison["p_holm"] = p
    return found


def compare_rows(head: str, left: Json, right: Json) -> Json | None:
    """``right`` minus ``left`` over the seeds that both have; None when there is none."""
    ours, theirs = (row["figures"].get(head, {}).get("values", {}) for row in (left, right))
    shared = [seed for seed in ours if seed in theirs]
    return asdict(paired([ours[seed] for seed in shared], [theirs[seed] for seed in shared])) if shared else None


def _front(study: StudySpec, column: Column, rows: Sequence[Json]) -> list[int]:
    points = [(number, point_of(row, column.head, study.compute)) for number, row in enumerate(rows)]
    known = [(number, point) for number, point in points if point is not None]
    return [known[place][0] for place in pareto_front([point for _, point in known], column.metric.better)]


def _fit(study: StudySpec, column: Column, rows: Sequence[Json]) -> Json | None:
    points = [point for row in rows if (point := point_of(row, column.head, study.compute))]
    law = power_law(points)
    return None if law is None else asdict(law)


def _provenance(cells: Sequence[CellFacts]) -> Json:
    """What the figures were measured with: versions of the code, and contents of the datasets examined."""
    results = [cell.evaluation.result for cell in cells if cell.evaluation and cell.evaluation.state == SUCCEEDED]
    return {
        "versions": sorted({str(result["version"]) for result in results if "version" in result}),
        "datasets": sorted({f"{r['dataset']} {r['dataset_hash']}" for r in results if r.get("dataset_hash")}),
    }
