"""A real training whose disk fills up: it says so, and resumed it ends as one that was left alone."""

from __future__ import annotations

import json

import pytest

from lcl_core.common.run_dir import ExitCode
from tests.lcl_core.train.small_runs import curve, finished, logged_steps, prepared, started, weights


@pytest.mark.extended
def test_it_goes_on_exactly_once_there_is_room(small_disk, tmp_path, sample_zip, eventually):
    many = {"steps": 60, "log_every": 1, "checkpoint_every": 5}
    run_dir = prepared(small_disk.path / "run", sample_zip, **many)
    with started(run_dir) as process:
        eventually(lambda: logged_steps(run_dir) > 7, "the first checkpoint")
        small_disk.fill()
        status = process.wait(timeout=240)
    # a line of the metrics finds the disk full, or a checkpoint does, whose error still fits
    assert status == ExitCode.DISK_FULL or json.loads(run_dir.error_file.read_text())["code"] == "disk_full"
    assert list(run_dir.checkpoints.glob("step_*")), "the checkpoints of before are there"
    small_disk.make_room()
    run_dir.prepare(run_dir.read_run())
    assert finished(run_dir) == ExitCode.OK, run_dir.log_file.read_text()
    alone = prepared(tmp_path / "alone", sample_zip, **many)
    assert finished(alone) == ExitCode.OK
    assert curve(run_dir) == curve(alone)
    assert weights(run_dir) == weights(alone)
