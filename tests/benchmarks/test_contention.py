"""The benchmark of training beside a busy process: its report, and what it leaves behind."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks import contention
from lcl_core.common.errors import UserError
from lcl_core.common.threads import SPIN_COUNT

pytestmark = pytest.mark.extended


def candidates(*arguments: str) -> dict[str, dict[str, str]]:
    parser = argparse.ArgumentParser()
    contention.add_arguments(parser)
    return contention._candidates(parser.parse_args(arguments))


def test_candidates_differ_in_nothing_but_their_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")  # the caller's choice is none of the candidates
    found = candidates("--spin-counts", "100", "--threads", "1", "--passive")
    common = found.pop("library")
    added = {name: dict(environment.items() - common.items()) for name, environment in found.items()}
    assert added.pop("shipped")["GOMP_SPINCOUNT"] == str(SPIN_COUNT)
    assert added == {
        "spin_100": {"GOMP_SPINCOUNT": "100"},
        "threads_1": {"OMP_NUM_THREADS": "1"},
        "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    }
    assert "OMP_WAIT_POLICY" not in common


def trainings_in(folder: Path) -> list[str]:
    """Processes whose run directory is in ``folder``."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(entry.read_bytes().replace(b"\0", b" ").decode())
    return [command for command in found if str(folder) in command and "lcl_core.train" in command]


def test_it_reports_both_rates_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    report = contention.measure({"one": dict(os.environ)}, rounds=1, seconds=0.1, busy=1)
    one = report["images_per_s"]["one"]
    assert one["alone"] > 0
    assert one["beside"] > 0
    assert one["ratio"] == pytest.approx(one["beside"] / one["alone"], abs=0.02)
    eventually(lambda: not trainings_in(tmp_path), "the end of the training and its loader")
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_cannot_start_is_told() -> None:
    with pytest.raises(UserError, match="did not start"):
        contention.measure({"one": {"PATH": os.environ["PATH"], "PYTHONHOME": "/none"}}, 1, 0.1, 1)
