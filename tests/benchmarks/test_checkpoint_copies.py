"""The benchmark of checkpoint copies, on a small run: its figures mean what they say."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.lcl_core.train.small_runs import TINY

pytestmark = pytest.mark.extended


def test_steps_are_timed_with_and_without_a_store() -> None:
    words = ["--steps", "16", "--every", "4", "--rounds", "1", "--spec", json.dumps(TINY)]
    command = [sys.executable, "-m", "benchmarks", "checkpoint-copies", *words]  # it configures its process' logging
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout)
    spent = report["seconds_a_step"]
    # the last is always copied; while a copy takes longer than the next checkpoint, those between are left out
    assert report["newest_copies"].count(16) == 1, "of the run with a store alone"
    assert set(report["newest_copies"]) <= {4, 8, 12, 16}
    assert 0 < spent["local"][0] < 60
    assert report["ratio"] == pytest.approx(spent["store"][0] / spent["local"][0], rel=0.01)
