"""Results of a study's runs: records, states, metric values, costs and training curves.

States of cells and studies are derived from the states of runs, so that the two cannot disagree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, TypeGuard

from lcl_core.specs.study import MetricSpec
from lcl_core.studies.trials import CellKey, Labels, Setting


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a JSON value is a number; booleans are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


QUEUED, RUNNING, CANCELLING, SUCCEEDED = "queued", "running", "cancelling", "succeeded"
FAILED, CANCELLED = "failed", "cancelled"
PAUSED_STATES = ("waiting", "pausing", "paused")  # by a person, until the person resumes
UNFINISHED = (QUEUED, RUNNING, CANCELLING, *PAUSED_STATES)
STATES = (*UNFINISHED, SUCCEEDED, FAILED, CANCELLED)


def cell_state(run: str, evaluation: str | None, *, cancelled: bool = False) -> str:
    """State of a cell from those of its pre-training and its evaluation; between the two it is running.

    ``cancelled``: its study submits no more runs.
    """
    if run != SUCCEEDED:
        return run
    if evaluation is None:
        return CANCELLED if cancelled else RUNNING
    return RUNNING if evaluation == QUEUED else evaluation


def study_state(counts: Mapping[str, int], *, cancelled: bool = False) -> str:
    """State of a study from the number of its cells in each state.

    ``cancelled``: on request; a cell that still runs then belongs to another study too.
    """
    if cancelled:
        return CANCELLING if counts.get(CANCELLING) else CANCELLED
    if counts.get(QUEUED, 0) == sum(counts.values()):
        return QUEUED
    if any(counts.get(state) for state in UNFINISHED):
        return RUNNING
    return FAILED if counts.get(FAILED) or counts.get(CANCELLED) else SUCCEEDED


@dataclass(frozen=True)
class StudyStatus:
    """A study's state, and the number of its cells in each state."""

    state: str
    counts: dict[str, int]


def count_states(states: Iterable[str]) -> dict[str, int]:
    """{state: count} in the order of ``STATES``, without states that do not occur."""
    counts = Counter(states)
    return {state: counts[state] for state in STATES if counts[state]}


@dataclass(frozen=True)
class RunRecord:
    """A run of a study: the fields of its database row that the study needs."""

    id: str
    state: str
    result: dict[str, Any] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)
    reason: dict[str, Any] | None = None
    progress: dict[str, Any] | None = None
    inputs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CellRecord:
    """A cell with its pre-training, and the evaluation of the encoder once there is one."""

    number: int
    labels: Labels
    parameters: Setting
    seed: int
    run: RunRecord
    evaluation: RunRecord | None = None

    def state(self, *, cancelled: bool = False) -> str:
        """As ``cell_state``."""
        return cell_state(self.run.state, self.evaluation.state if self.evaluation else None, cancelled=cancelled)

    @property
    def key(self) -> CellKey:
        return frozenset(self.labels.items()), self.seed


def group_by_row(cells: Sequence[CellRecord]) -> list[list[CellRecord]]:
    """The cells of each row of the table, rows in the order of their first cell."""
    rows: dict[Any, list[CellRecord]] = {}
    for cell in sorted(cells, key=lambda cell: cell.number):
        rows.setdefault(frozenset(cell.labels.items()), []).append(cell)
    return list(rows.values())


SELECTORS = ("task", "split", "variant", "transfer", "metric")


@dataclass(frozen=True)
class MetricValue:
    """A metric's value for one cell, with the baselines of the evaluation; a value of the training has none."""

    value: float
    chance: float | None = None
    untrained: float | None = None


def metric_value(metric: MetricSpec, cell: CellRecord) -> MetricValue | None:
    """None while the run has not succeeded, or when its result has no such value."""
    if metric.of == "training":
        value = (cell.run.result.get("final") or {}).get(metric.metric)
        return MetricValue(float(value)) if is_number(value) else None
    if cell.evaluation is None or cell.evaluation.state != SUCCEEDED:
        return None
    wanted = {key: value for key in SELECTORS if (value := getattr(metric, key)) is not None}
    rows = [
        row
        for row in cell.evaluation.result.get("rows", ())
        if wanted.items() <= row.items() and is_number(row.get("value"))
    ]
    if not rows:
        return None
    return MetricValue(fmean(row["value"] for row in rows), _mean_field(rows, "chance"), _mean_field(rows, "untrained"))


def _mean_field(rows: list[dict[str, Any]], key: str) -> float | None:
    values = [value for row in rows if is_number(value := row.get(key))]
    return fmean(values) if len(values) == len(rows) else None


COSTS = ("seconds", "images_seen", "tokens_seen", "flops", "parameters")


def mean_costs(cells: Sequence[CellRecord]) -> dict[str, float | None]:
    """Means over the cells whose pre-training has succeeded; None while there is none."""
    encoders = [cell.run.result.get("encoder") or {} for cell in cells]
    known = {name: [encoder[name] for encoder in encoders if is_number(encoder.get(name))] for name in COSTS}
    return {name: fmean(values) if values else None for name, values in known.items()}


NO_CURVES = ("step", "total_steps", "id", "time")
Line = Mapping[str, Any]


def training_curves(
    cells: Sequence[CellRecord], lines: Mapping[str, Sequence[Line]], value: str
) -> list[dict[str, Any]]:
    """One curve a row: {"labels", "points": [[step, mean, lowest, highest] over the seeds]}.

    Args:
        lines: by run id, its metric lines in order.
        value: key of the lines to draw.
    """
    curves = []
    for row in group_by_row(cells):
        at: dict[int, list[float]] = {}
        for line in (line for cell in row for line in lines.get(cell.run.id, ())):
            if is_number(number := line.get(value)):
                at.setdefault(line["step"], []).append(float(number))
        points = [[step, fmean(values), min(values), max(values)] for step, values in sorted(at.items())]
        curves.append({"labels": row[0].labels, "points": points})
    return curves


def curve_metrics(lines: Mapping[str, Sequence[Line]]) -> list[str]:
    """Keys of the numbers in the runs' lines, ``loss`` first."""
    keys = {key for run in lines.values() for line in run for key in line if is_number(line[key])}.difference(NO_CURVES)
    return sorted(keys, key=lambda key: (key != "loss", key))
