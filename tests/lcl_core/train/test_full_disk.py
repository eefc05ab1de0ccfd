"""A real training whose disk fills up: it says so, and resumed it ends as one that was left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lcl_core.rundir import Exit
from tests.lcl_core.train.runs import curve, finished, prepared, started, steps_told, weights


def test_it_goes_on_exactly_once_there_is_room(
    small_disk: Any, tmp_path: Path, sample_zip: Path, eventually: Callable[..., None]
) -> None:
    many = {"steps": 60, "log_every": 1, "checkpoint_every": 5}
    run_dir = prepared(small_disk.path / "run", sample_zip, **many)
    with started(run_dir) as process:
        eventually(lambda: steps_told(run_dir) > 7, "the first checkpoint")
        small_disk.fill()
        assert process.wait(timeout=240) == Exit.DISK_FULL
    assert list(run_dir.checkpoints.glob("step_*")), "the checkpoints of before are there"
    small_disk.make_room()
    run_dir.prepare(run_dir.read_run())
    assert finished(run_dir) == Exit.OK, run_dir.log_file.read_text()
    alone = prepared(tmp_path / "alone", sample_zip, **many)
    assert finished(alone) == Exit.OK
    assert curve(run_dir) == curve(alone)
    assert weights(run_dir) == weights(alone)
