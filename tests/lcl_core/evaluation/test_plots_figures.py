"""All figures of a run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lcl_core.common.run_dir import RunDir
from lcl_core.evaluation.evaluate import evaluate

FIELDS = {"figures": True, "untrained_baseline": False}


def names(run_dir: RunDir) -> list[str]:
    return sorted(file.name for file in (run_dir.artifacts / "figures").iterdir())


def test_every_sheet_has_its_figures(new_run: Callable[..., RunDir]) -> None:
    run_dir = new_run(**FIELDS)
    result = evaluate(run_dir)
    found = names(run_dir)
    assert "figures_left_out" not in result
    assert "confusion-classification-test-colour-image_to_class-frozen-trained.png" in found
    assert "curves.png" in found
    assert sum(name.startswith("examples-") for name in found) == 1 + 2 * 3


def test_without_matplotlib_the_rest_is_drawn_and_the_result_says_so(
    new_run: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    run_dir = new_run(**FIELDS)
    assert "matplotlib" in evaluate(run_dir)["figures_left_out"]
    assert all(name.startswith("examples-") for name in names(run_dir))
