"""Successive halving: which trials a rung hands on to the next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from lcl_core.specs import HalvingSearch, MetricSpec, StudySpec
from lcl_core.studies.cells import Cell, cell_of
from lcl_core.studies.facts import CellFacts, by_row
from lcl_core.studies.figures import figure_of
from lcl_core.studies.rows import rows_of
from lcl_core.studies.states import SUCCEEDED, UNFINISHED


def promoted(study: StudySpec, cells: Sequence[CellFacts]) -> list[Cell]:
    """The cells that come next: once every cell of the highest rung has ended, its best rows with more steps.

    After the last rung the finalists train no further: their cells have the specs of that rung, whose runs are there,
    and are examined as the study reports. A row of which a cell failed is out. Nothing comes while a rung is at work,
    after the finalists, or when no row is left.
    """
    search = study.search
    if not isinstance(search, HalvingSearch) or not cells:
        return []
    rung = max(cell.rung for cell in cells)
    latest = [cell for cell in cells if cell.rung == rung]
    if rung == len(search.rungs) or any(cell.state() in UNFINISHED for cell in latest):
        return []
    chosen = [frozenset(row[0].labels.items()) for row in _best(search, by_row(latest), rung)]
    rows = {frozenset(row.labels.items()): row for row in rows_of(study)}
    return [cell_of(study, rows[labels], seed, rung + 1) for seed in study.seeds for labels in chosen]


def continuable(study: StudySpec, cell: Cell) -> bool:
    """Whether a promoted trial may go on from its checkpoint and be what a run of that many steps is.

    So it is under a constant learning rate; every other schedule depends on the number of steps from the start.
    """
    search = study.search
    trains_on = isinstance(search, HalvingSearch) and 0 < cell.rung < len(search.rungs)
    return trains_on and cell.spec.optimizer.schedule == "constant"


def _best(search: HalvingSearch, rows: list[list[CellFacts]], rung: int) -> list[list[CellFacts]]:
    """Best first; of equals the earlier. As many as ``keep`` of the rung says, at least one."""
    last = rung + 1 == len(search.rungs)
    count = search.finalists if last else max(1, math.ceil(search.keep * len(rows) - 1e-9))
    scores = [(_score(search.metric, row), row) for row in rows]
    ranked = sorted(
        ((score, row) for score, row in scores if score is not None),
        key=lambda pair: pair[0] if search.metric.better == "lower" else -pair[0],
    )
    return [row for _, row in ranked[:count]]


def _score(metric: MetricSpec, row: list[CellFacts]) -> float | None:
    """Mean over the seeds; None when one of them failed or has no such figure."""
    figures = [figure_of(metric, cell) for cell in row]
    values = [figure.value for figure in figures if figure is not None]
    return fmean(values) if len(values) == len(row) and all(cell.state() == SUCCEEDED for cell in row) else None
