"""Tests over samples of two rows of a study, from the stored predictions of their evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from api.services.paired_tests import sample_tests
from lcl_core.evaluation.results import PredictionFile, PredictionStore
from lcl_core.specs.parsing import parse_as
from lcl_core.specs.study import StudySpec
from lcl_core.studies.results import SUCCEEDED, CellRecord, RunRecord
from lcl_core.studies.table import table_columns

METRIC = {"name": "IR@5", "metric": "IR@5"}
HALVING = {
    "metrics": [METRIC],
    "evaluate": {"splits": ["test"]},
    "search": {
        "kind": "halving", "trials": 3, "rungs": [10], "finalists": 2, "validation": {"splits": ["val"]},
        "parameters": {"optimizer.lr": {"kind": "uniform", "low": 0.1, "high": 0.9}}, "metric": METRIC,
    },
}  # fmt: skip


def evaluated(folder: Path, number: int, rung: int, split: str, ranks: list[int]) -> tuple[CellRecord, Path]:
    """A cell of a halving, and the stored predictions of its evaluation on ``split``."""
    store = PredictionStore(folder / str(number))
    store.start()
    about: Any = ("retrieval", split, "captions[0]", "zero_shot", "ranks", "trained")
    sheet = PredictionFile(*about, part="text_to_image", facts={"candidates": 20})
    store.add(sheet, [{"query": f"q{n}", "rank": rank, "right": 1, "top": []} for n, rank in enumerate(ranks)])
    runs = RunRecord(f"run_{number}", SUCCEEDED), RunRecord(f"eval_{number}", SUCCEEDED)
    return CellRecord(number, {"trial": f"t{number:02d}"}, {}, 0, rung, *runs), store.folder


@pytest.mark.parametrize(
    ("rung", "split", "tested", "empty"),
    [(0, "val", "validation IR@5", "IR@5"), (1, "test", "IR@5", "validation IR@5")],
)
def test_in_a_halving_trials_are_tested_on_the_validation_and_finalists_on_the_report(
    tmp_path: Path, rung: int, split: str, tested: str, empty: str
) -> None:
    left, right = [1, 9, 9, 1], [1, 1, 9, 1]
    sides = [[evaluated(tmp_path, number, rung, split, ranks)] for number, ranks in enumerate((left, right))]
    found = sample_tests(table_columns(parse_as(StudySpec, HALVING)), sides)
    assert found[empty] is None
    test = found[tested]
    assert test is not None
    assert (test["count"], test["difference"]) == (4, 0.25)


def test_a_trial_and_a_finalist_have_no_samples_in_common(tmp_path: Path) -> None:
    sides = [[evaluated(tmp_path, 0, 0, "val", [1, 9])], [evaluated(tmp_path, 1, 1, "val", [1, 1])]]
    found = sample_tests(table_columns(parse_as(StudySpec, HALVING)), sides)
    assert found == {"IR@5": None, "validation IR@5": None}
