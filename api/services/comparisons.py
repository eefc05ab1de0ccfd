"""Comparison of two encoders, figure by figure, where both were evaluated with equal settings, and of rows of a study.

Settings are those of the stored spec of each evaluation. Differences are tested pairwise where both evaluations'
predictions are still stored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from lcl_core.common.errors import UserError
from lcl_core.db import runs as db_runs
from lcl_core.db.models import Run
from lcl_core.specs.evaluate import TRAINED_TASKS, task_settings
from lcl_core.specs.study import MetricSpec

# Figures are about the same when they have these in common.
COMPARISON_KEYS = ("task", "split", "variant", "transfer", "metric", "dataset", "dataset_hash")
TEST_KEYS = COMPARISON_KEYS[:5]
_MAX_NAMED = 5  # settings in a reason
RESAMPLES = 2000  # fast enough for a request on large splits

Json = dict[str, Any]
Key = tuple[Any, ...]


@dataclass(frozen=True)
class EvaluatedFigure:
    """One figure of an encoder.

    Attributes:
        key: values of COMPARISON_KEYS.
        settings: of the evaluation, as far as the figure depends on them, each as JSON text.
    """

    key: Key
    value: float | None
    chance: float | None
    interval: list[float] | None
    run_id: str
    settings: dict[str, str]


def evaluated_figures(session: Session, encoder_id: str) -> list[EvaluatedFigure]:
    """All figures of an encoder's evaluations, newest first."""
    evaluations = db_runs.list_evaluations(session, encoder_id)
    return [figure for run, rows in evaluations for figure in _figures_of_run(run, rows)]


def _figures_of_run(run: Run, rows: Sequence[Json]) -> Iterator[EvaluatedFigure]:
    fields = _complete_fields(run)
    origin = {"dataset": run.spec.get("dataset"), "dataset_hash": (run.result or {}).get("dataset_hash")}

    @cache
    def settings_of(task: str, transfer: str | None, variant: str | None) -> dict[str, str]:
        settings = task_settings(fields, task, transfer, variant)
        return {name: json.dumps(value, sort_keys=True) for name, value in settings.items()}

    for row in rows:
        key = tuple({**row, **origin}.get(name) for name in COMPARISON_KEYS)
        settings = settings_of(row.get("task", ""), row.get("transfer"), row.get("variant"))
        settings = {**settings, "candidates": str(row.get("candidates"))}
        yield EvaluatedFigure(key, row["value"], row.get("chance"), row.get("interval"), run.id, settings)


def _complete_fields(run: Run) -> Json:
    """The stored spec, with other encoders and datasets by the hashes that the run has read."""
    fields = deepcopy(run.spec)
    read = run.inputs or {}
    others = [digest for name, digest in read.get("encoders", {}).items() if name != run.encoder_id]
    if len(others) == 1 and fields.get("tuned_retrieval", {}).get("text_encoder"):
        fields["tuned_retrieval"]["text_encoder"] = others[0]
    for task in TRAINED_TASKS:
        name = fields.get(task, {}).get("train_dataset")
        if name and read.get("datasets", {}).get(name):
            fields[task]["train_dataset"] = read["datasets"][name]
    return fields


def compare_figures(left: Sequence[EvaluatedFigure], right: Sequence[EvaluatedFigure]) -> list[Json]:
    """One row per figure of both, of the newest two evaluations with equal settings. ``difference``: right minus left.

    Where there are no such two, the row has the newest figure of each, no ``difference``, and a ``reason``.
    """
    first, second = _by_key(left), _by_key(right)
    return [_row(key, first[key], second[key]) for key in first if key in second]


def _by_key(figures: Sequence[EvaluatedFigure]) -> dict[Key, list[EvaluatedFigure]]:
    found: dict[Key, list[EvaluatedFigure]] = {}
    for figure in figures:
        found.setdefault(figure.key, []).append(figure)
    return found


def _row(key: Key, left: Sequence[EvaluatedFigure], right: Sequence[EvaluatedFigure]) -> Json:
    pairs = [(one, other) for one in left for other in right if one.settings == other.settings]
    if pairs:  # ids of runs rise with time
        one, other = max(pairs, key=lambda pair: sorted((each.run_id for each in pair), reverse=True))
        difference = None if one.value is None or other.value is None else other.value - one.value
        reason = None
    else:
        one, other, difference = left[0], right[0], None
        reason = f"evaluated with different settings: {_differing(one.settings, other.settings)}"
    return {
        **dict(zip(COMPARISON_KEYS, key, strict=True)),
        "left": one.value,
        "right": other.value,
        "left_interval": one.interval,
        "right_interval": other.interval,
        "difference": difference,
        "reason": reason,
        "chance": one.chance if one.chance == other.chance else None,
        "left_run": one.run_id,
        "right_run": other.run_id,
    }


def _differing(left: Mapping[str, str], right: Mapping[str, str]) -> str:
    names = [name for name in {**left, **right} if left.get(name) != right.get(name)]
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more


def with_significance(rows: Sequence[Json], records_of: Callable[[str], Path]) -> list[Json]:
    """The rows with ``interval`` (95 %, of the difference), ``p`` and ``units`` where both runs' predictions exist.

    Rows with a ``reason`` are not tested. The tests cover the units in common, so that values may differ from the row's
    where one run has more units.

    Args:
        records_of: the folder of a run's predictions; raises UserError when they cannot be fetched.
    """

    @cache
    def tests_of(left_run: str, right_run: str) -> dict[Key, Json]:
        try:
            folders = [records_of(left_run), records_of(right_run)]
            if not all(map(_has_predictions, folders)):
                return {}
            tests = _significance().compare_runs(*folders, draws=RESAMPLES)
        except UserError:
            return {}
        return {
            tuple(test[key] for key in TEST_KEYS): {
                "interval": test["interval"],
                "p": test["p"],
                "units": test["count"],
            }
            for test in tests
        }

    return [
        row
        if row["reason"] is not None
        else {**row, **tests_of(row["left_run"], row["right_run"]).get(tuple(map(row.get, TEST_KEYS)), {})}
        for row in rows
    ]


def sample_tests(metrics: Sequence[MetricSpec], sides: Sequence[Sequence[Path]]) -> dict[str, Json | None]:
    """Tests over samples by the metric's name, of two sides with the folders of their seeds' predictions."""
    left, right = ([records for records in side if _has_predictions(records)] for side in sides)
    significance = _significance()
    return {metric.name: significance.compare_selected(metric, left, right, draws=RESAMPLES) for metric in metrics}


def _significance() -> Any:
    from lcl_core.evaluation import significance  # imports torch

    return significance


def _has_predictions(folder: Path) -> bool:
    return (folder / "index.json").is_file()
