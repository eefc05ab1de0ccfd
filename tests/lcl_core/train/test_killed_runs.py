"""Runs that lose all their processes twice within an epoch end, bit by bit, as one that was left alone."""

from __future__ import annotations

import pytest

from lcl_core.common.run_dir import ExitCode
from tests.lcl_core.train.small_runs import (
    curve,
    finished,
    killed_after,
    prepared,
    weights,
)

pytestmark = pytest.mark.extended

STEPS = 40
# a checkpoint lies now before, now after the step at which a run dies; lines come often, to die at a chosen step
OFTEN = {"steps": STEPS, "log_every": 2, "checkpoint_every": 3}


def test_two_ranks_killed_twice(tmp_path, sample_zip, eventually):
    two = {**OFTEN, "engine": {"processes": 2}}
    alone, run_dir = (prepared(tmp_path / name, sample_zip, **two) for name in ("alone", "killed"))
    assert finished(alone) == ExitCode.OK, alone.log_file.read_text()
    for step in (5, 16):
        killed_after(run_dir, step, eventually)
    assert finished(run_dir) == ExitCode.OK, run_dir.log_file.read_text()
    assert curve(run_dir) == curve(alone)
    assert weights(run_dir) == weights(alone)
