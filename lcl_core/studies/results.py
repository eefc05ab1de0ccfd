"""Results of a study's runs: records, states, metric values, costs and training curves.

States of cells and studies are derived from the states of runs, so that the two cannot disagree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, TypeGuard

from lcl_core.common.errors import UserError
from lcl_core.estimate.flops import training_flops
from lcl_core.estimate.history import vocabulary_size
from lcl_core.specs.parsing import parse_spec
from lcl_core.specs.pretrain import PretrainSpec
from lcl_core.specs.study import MetricSpec
from lcl_core.studies.statistics import mean
from lcl_core.studies.trials import CellKey, Labels, Setting, cell_key


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

    Args:
        cancelled: its study submits no more runs.
    """
    if run != SUCCEEDED:
        return run
    if evaluation is None:
        return CANCELLED if cancelled else RUNNING
    return RUNNING if evaluation == QUEUED else evaluation


def study_state(counts: Mapping[str, int], *, cancelled: bool = False, more_to_come: bool = False) -> str:
    """State of a study from the number of its cells in each state.

    Args:
        cancelled: on request; a cell that still runs then belongs to another study too.
        more_to_come: a halving is about to promote trials.
    """
    if cancelled:
        return CANCELLING if counts.get(CANCELLING) else CANCELLED
    if counts.get(QUEUED, 0) == sum(counts.values()):
        return QUEUED
    if more_to_come or any(counts.get(state) for state in UNFINISHED):
        return RUNNING
    return FAILED if counts.get(FAILED) or counts.get(CANCELLED) else SUCCEEDED


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
    continues: str | None = None
    inputs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CellRecord:
    """A cell with its pre-training, and the evaluation of the encoder once there is one."""

    number: int
    labels: Labels
    parameters: Setting
    seed: int
    rung: int
    run: RunRecord
    evaluation: RunRecord | None = None

    def state(self, *, cancelled: bool = False) -> str:
        """As ``cell_state``."""
        return cell_state(self.run.state, self.evaluation.state if self.evaluation else None, cancelled=cancelled)

    @property
    def key(self) -> CellKey:
        return cell_key(self.labels, self.seed, self.rung)

    @property
    def row_key(self) -> tuple[frozenset[tuple[str, str]], int]:
        """Equal for the cells of one row of the table."""
        return frozenset(self.labels.items()), self.rung


def group_by_row(cells: Sequence[CellRecord]) -> list[list[CellRecord]]:
    """The cells of each row of the table, rows in the order of their first cell."""
    rows: dict[Any, list[CellRecord]] = {}
    for cell in sorted(cells, key=lambda cell: cell.number):
        rows.setdefault(cell.row_key, []).append(cell)
    return list(rows.values())


SELECTORS = ("task", "split", "variant", "transfer", "metric")


@dataclass(frozen=True)
class MetricValue:
    """A metric's value for one cell.

    Attributes:
        chance, untrained: baselines of the evaluation; none for a value of the training.
        rows: number of evaluation rows of which it is the mean.
    """

    value: float
    chance: float | None = None
    untrained: float | None = None
    rows: int = 1


def metric_value(metric: MetricSpec, cell: CellRecord) -> MetricValue | None:
    """None while the run has not succeeded, or when its result has no such value."""
    if metric.of == "training":
        value = (cell.run.result.get("final") or {}).get(metric.metric)
        return MetricValue(float(value)) if is_number(value) else None
    if cell.evaluation is None or cell.evaluation.state != SUCCEEDED:
        return None
    rows = [
        row for row in cell.evaluation.result.get("rows", ()) if _matches(metric, row) and is_number(row.get("value"))
    ]
    if not rows:
        return None
    return MetricValue(
        fmean(row["value"] for row in rows), _mean_field(rows, "chance"), _mean_field(rows, "untrained"), len(rows)
    )


def _matches(metric: MetricSpec, row: dict[str, Any]) -> bool:
    selected = {key: getattr(metric, key) for key in SELECTORS}
    return all(value is None or row.get(key) == value for key, value in selected.items())


def _mean_field(rows: list[dict[str, Any]], key: str) -> float | None:
    values = [value for row in rows if is_number(value := row.get(key))]
    return fmean(values) if len(values) == len(rows) else None


COUNTS = ("images_seen", "tokens_seen", "documents_seen")
COSTS = ("seconds", "images_seen", "tokens_seen", "flops", "parameters")


def mean_costs(cells: Sequence[CellRecord]) -> dict[str, float | None]:
    """Means over the cells whose pre-training has succeeded; None while there is none."""
    known = [cost for cell in cells if (cost := _run_cost(cell.run)) is not None]
    return {name: mean([cost[name] for cost in known if name in cost]) for name in COSTS}


def _run_cost(run: RunRecord) -> dict[str, float] | None:
    """The run's reported figures, and the operations estimated from them."""
    encoder = run.result.get("encoder")
    if not isinstance(encoder, dict):
        return None
    cost = {name: float(value) for name in COSTS if is_number(value := encoder.get(name))}
    images, tokens, documents = (encoder.get(name) for name in COUNTS)
    spec = _parse_run_spec(run)
    if spec is not None and is_number(images) and is_number(tokens) and is_number(documents):
        with suppress(UserError):  # a vision tower of a library that is not installed here
            counts = int(images), int(tokens), int(documents)
            cost["flops"] = training_flops(spec, *counts, vocabulary_size(encoder))
    return cost


def _parse_run_spec(run: RunRecord) -> PretrainSpec | None:
    """None for a spec of an older version that is no longer valid."""
    try:
        spec = parse_spec("pretrain", run.spec)
    except UserError:
        return None
    return spec if isinstance(spec, PretrainSpec) else None


NO_CURVES = ("step", "total_steps", "id", "time")
MAX_POINTS = 200
Line = Mapping[str, Any]


def training_curves(
    cells: Sequence[CellRecord], lines: Mapping[str, Sequence[Line]], value: str
) -> list[dict[str, Any]]:
    """One curve a row: {"labels", "rung", "points": [[step, mean, lowest, highest] over the seeds]}.

    ``rung`` is None in a study without halving.

    Args:
        lines: by run id, its metric lines in order.
        value: key of the lines to draw.
    """
    has_rungs = any(cell.rung for cell in cells)
    return [
        {
            "labels": row[0].labels,
            "rung": row[0].rung if has_rungs else None,
            "points": _subsample(_over_seeds([lines.get(cell.run.id, ()) for cell in row], value)),
        }
        for row in group_by_row(cells)
    ]


def curve_metrics(lines: Mapping[str, Sequence[Line]]) -> list[str]:
    """Keys of the numbers in the runs' lines, ``loss`` first."""
    keys = {key for run in lines.values() for line in run for key in line if is_number(line[key])}.difference(NO_CURVES)
    return sorted(keys, key=lambda key: (key != "loss", key))


def _over_seeds(runs: Sequence[Sequence[Line]], value: str) -> list[list[float]]:
    at: dict[int, list[float]] = {}
    for run in runs:
        for line in run:
            if is_number(number := line.get(value)):
                at.setdefault(line["step"], []).append(float(number))
    return [[step, fmean(values), min(values), max(values)] for step, values in sorted(at.items())]


def _subsample(points: list[list[float]]) -> list[list[float]]:
    """At most ``MAX_POINTS``, evenly spaced, with the first and the last."""
    if len(points) <= MAX_POINTS:
        return points
    stride = (len(points) - 1) / (MAX_POINTS - 1)
    return [points[round(index * stride)] for index in range(MAX_POINTS)]
