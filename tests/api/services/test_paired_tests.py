"""Tests over samples of two rows of a study, from the stored predictions of their evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from api.services.comparisons import sample_tests
from lcl_core.evaluation.results import PredictionFile, PredictionStore
from lcl_core.specs.study import MetricSpec


def predictions(folder: Path, ranks: list[int]) -> Path:
    store = PredictionStore(folder)
    store.start()
    about: Any = ("retrieval", "test", "captions[0]", "zero_shot", "ranks", "trained")
    sheet = PredictionFile(*about, part="text_to_image", facts={"candidates": 20})
    store.add(sheet, [{"query": f"q{n}", "rank": rank, "right": 1, "top": []} for n, rank in enumerate(ranks)])
    return store.folder


def test_rows_are_tested_over_the_samples_of_each_metric(tmp_path):
    metrics = [MetricSpec(name="within five", metric="IR@5"), MetricSpec(name="probe", metric="acc@1")]
    left, right = predictions(tmp_path / "left", [1, 9, 9, 1]), predictions(tmp_path / "right", [1, 1, 9, 1])
    found = sample_tests(metrics, [[left], [right, tmp_path / "absent"]])
    assert found["probe"] is None
    assert (found["within five"]["count"], found["within five"]["difference"]) == (4, pytest.approx(0.25))
