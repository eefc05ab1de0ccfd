"""Status of a study, and successive halving: which trials of a rung are promoted to the next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from lcl_core.specs.study import HalvingSearch, MetricSpec, StudySpec
from lcl_core.studies.results import (
    FAILED,
    SUCCEEDED,
    UNFINISHED,
    CellRecord,
    count_states,
    group_by_row,
    metric_value,
    study_state,
)
from lcl_core.studies.trials import PlannedCell, build_cell, study_rows


def promoted_cells(study: StudySpec, cells: Sequence[CellRecord]) -> list[PlannedCell]:
    """The next cells: once every cell of the highest rung has ended, its best rows with more steps.

    After the last rung the finalists train no further: their cells have the specs and runs of that rung, and are
    evaluated as the study reports. A row with a failed cell is not promoted. None while a rung is running, after
    the finalists, or when no row is left.
    """
    search = study.search
    if not isinstance(search, HalvingSearch) or (rung := rung_to_promote(len(search.rungs), cells)) is None:
        return []
    latest = [cell for cell in cells if cell.rung == rung]
    chosen = [frozenset(row[0].labels.items()) for row in _best_rows(search, group_by_row(latest), rung)]
    rows = {frozenset(row.labels.items()): row for row in study_rows(study)}
    return [build_cell(study, rows[labels], seed, rung + 1) for seed in study.seeds for labels in chosen]


def are_finalists(study: StudySpec, cells: Sequence[PlannedCell]) -> bool:
    """Whether promoted cells, which are of one rung, train no further; False without any."""
    search = study.search
    return isinstance(search, HalvingSearch) and any(cell.rung == len(search.rungs) for cell in cells)


def rung_to_promote(rungs: int, cells: Sequence[CellRecord]) -> int | None:
    """The highest rung of a halving with ``rungs`` of them, if its best rows may be promoted to a next one.

    None while one of its cells is unfinished, after the finalists, or when each of its rows has a failed cell. Reads
    the states of the cells and not their results.
    """
    rung = max((cell.rung for cell in cells), default=rungs)
    latest = [cell for cell in cells if cell.rung == rung]
    if rung == rungs or any(cell.state() in UNFINISHED for cell in latest):
        return None
    return rung if any(_has_succeeded(row) for row in group_by_row(latest)) else None


def can_continue(study: StudySpec, cell: PlannedCell) -> bool:
    """Whether a promoted trial may continue from its checkpoint and export what a run of that many steps does.

    That takes a constant learning rate, since every other schedule depends on the number of steps from the start. Where
    the best weights by held-out data are exported, it also takes a lower rung whose last step the longer run measures:
    a run measures its last step, whatever ``monitor.every``.
    """
    search, spec = study.search, cell.spec
    if not isinstance(search, HalvingSearch) or not 0 < cell.rung < len(search.rungs):
        return False
    monitor = spec.monitor
    if monitor is not None and monitor.export == "best" and search.rungs[cell.rung - 1] % monitor.every:
        return False
    return spec.optimizer.schedule == "constant"


def _best_rows(search: HalvingSearch, rows: list[list[CellRecord]], rung: int) -> list[list[CellRecord]]:
    """Best first; of equals the earlier. A share ``keep`` of the rung, at least one."""
    last = rung + 1 == len(search.rungs)
    count = search.finalists if last else max(1, math.ceil(search.keep * len(rows) - 1e-9))
    scores = [(_row_score(search.metric, row), row) for row in rows]
    ranked = sorted(
        ((score, row) for score, row in scores if score is not None),
        key=lambda pair: pair[0] if search.metric.better == "lower" else -pair[0],
    )
    return [row for _, row in ranked[:count]]


def _row_score(metric: MetricSpec, row: list[CellRecord]) -> float | None:
    """Mean over the seeds; None when one of them failed or has no such value."""
    values = [found.value for cell in row if (found := metric_value(metric, cell)) is not None]
    return fmean(values) if len(values) == len(row) and _has_succeeded(row) else None


def _has_succeeded(row: list[CellRecord]) -> bool:
    return all(cell.state() == SUCCEEDED for cell in row)


@dataclass(frozen=True)
class StudyStatus:
    """A study's state, and the number of its cells in each state."""

    state: str
    counts: dict[str, int]


def study_status(study: StudySpec, cells: Sequence[CellRecord], *, cancelled: bool) -> StudyStatus:
    """Status of a study. A halving succeeds by its finalists; without any it has failed."""
    counts = count_states(cell.state(cancelled=cancelled) for cell in cells)
    if not isinstance(study.search, HalvingSearch):
        return StudyStatus(study_state(counts, cancelled=cancelled), counts)
    finalists = [cell for cell in cells if cell.rung == len(study.search.rungs)]
    decide = count_states(cell.state(cancelled=cancelled) for cell in finalists) if finalists else counts
    state = study_state(decide, cancelled=cancelled, more_to_come=bool(promoted_cells(study, cells)))
    return StudyStatus(FAILED if state == SUCCEEDED and not finalists else state, counts)
