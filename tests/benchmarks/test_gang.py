"""The benchmark of a gang's start, without Ray: what it times, and what it says where Ray is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import gang
from benchmarks.__main__ import main
from tests.small_spec import SMALL_PRETRAIN

pytestmark = pytest.mark.extended


def test_a_start_is_timed_up_to_the_processes_and_up_to_the_first_step(tmp_path: Path) -> None:
    seconds = gang._measure(tmp_path / "home", {**SMALL_PRETRAIN, "steps": 2}, 1, 1, executor="local")
    (processes,), (first_step,) = seconds["processes"], seconds["first_step"]
    assert 0 < processes < first_step


def test_a_run_that_fails_has_no_figures(tmp_path: Path) -> None:
    spec = {**SMALL_PRETRAIN, "steps": 2, "timeout_seconds": 0.01}
    with pytest.raises(RuntimeError, match="the run is failed"):
        gang._measure(tmp_path / "home", spec, 1, 1, executor="local")


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["gang"]) == 2
    assert "pip install 'lcl[ray]'" in capsys.readouterr().err
