"""Paired tests on stored predictions, of two encoders and of two rows of a study. Imports numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lcl_core.common.errors import UserError
from lcl_core.evaluation.significance import compare_runs
from lcl_core.specs.study import MetricSpec
from lcl_core.studies.paired_outcomes import compare_outcomes, question_outcomes

RESAMPLES = 2000  # fast enough for a request on large splits
Json = dict[str, Any]


def encoder_tests(
    runs: tuple[str | None, str | None], records_of: Callable[[str], Path], keys: Sequence[str]
) -> dict[tuple[Any, ...], Json]:
    """Tests of two runs by (left run, right run, values of ``keys``); none without readable predictions of both."""
    try:
        folders = [records_of(str(run)) for run in runs]
        if not all(map(_has_predictions, folders)):
            return {}
        tests = compare_runs(*folders, draws=RESAMPLES)
    except UserError:
        return {}
    return {
        (*runs, *(getattr(test, key) for key in keys)): {
            "interval": list(test.interval),
            "p": test.p,
            "units": test.count,
        }
        for test in tests
    }


def sample_tests(metrics: Sequence[MetricSpec], sides: Sequence[Sequence[Path]]) -> dict[str, Json | None]:
    """Tests over samples by the metric's name, of two sides with the folders of their seeds' predictions."""
    outcomes = [
        [question_outcomes(metrics, records) for records in side if _has_predictions(records)] for side in sides
    ]
    tests = {
        metric.name: compare_outcomes(*([seed[number] for seed in side] for side in outcomes))
        for number, metric in enumerate(metrics)
    }
    return {name: None if test is None else asdict(test) for name, test in tests.items()}


def _has_predictions(folder: Path) -> bool:
    return (folder / "index.json").is_file()
