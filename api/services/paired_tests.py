"""Paired tests on stored predictions, of two encoders and of two rows of a study. Imports numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lcl_core.common.errors import UserError
from lcl_core.evaluation.significance import compare_runs
from lcl_core.studies.paired_outcomes import Outcomes, compare_outcomes, question_outcomes
from lcl_core.studies.results import CellRecord
from lcl_core.studies.table import Column

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


def sample_tests(
    columns: Sequence[Column], sides: Sequence[Sequence[tuple[CellRecord, Path]]]
) -> dict[str, Json | None]:
    """Tests over samples by the column's head, of two sides with the cells of their seeds and their predictions."""
    outcomes = [[_cell_outcomes(columns, *each) for each in side if _has_predictions(each[1])] for side in sides]
    tests = {
        column.head: compare_outcomes(*([cell.get(column.head, {}) for cell in side] for side in outcomes))
        for column in columns
    }
    return {head: None if test is None else asdict(test) for head, test in tests.items()}


def _cell_outcomes(columns: Sequence[Column], cell: CellRecord, records: Path) -> dict[str, Outcomes]:
    """Outcomes by head of the columns that have a value of this cell."""
    covering = [column for column in columns if column.covers(cell)]
    found = question_outcomes([column.metric for column in covering], records)
    return {column.head: outcomes for column, outcomes in zip(covering, found, strict=True)}


def _has_predictions(folder: Path) -> bool:
    return (folder / "index.json").is_file()
