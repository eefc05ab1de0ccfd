"""Runs that lose all their processes twice within an epoch end, bit by bit, as one that was left alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import ExitCode, RunDir
from tests.lcl_core.train.small_runs import (
    curve,
    finished,
    group,
    killed_after,
    logged_steps,
    prepared,
    started,
    trainer,
    weights,
)

pytestmark = pytest.mark.extended

STEPS = 40
# a checkpoint lies now before, now after the step at which a run dies; lines come often, to die at a chosen step
OFTEN = {"steps": STEPS, "log_every": 2, "checkpoint_every": 3}


@pytest.mark.parametrize("seed", [0, 1])
def test_one_process_killed_twice(tmp_path: Path, sample_zip: Path, eventually: Callable[..., None], seed: int) -> None:
    alone = prepared(tmp_path / "alone", sample_zip, **OFTEN)
    alone.write_result(trainer(alone).run())
    run_dir = prepared(tmp_path / "killed", sample_zip, **OFTEN)
    draw = random.Random(seed)
    first, second = sorted(draw.sample(range(1, STEPS // 2), 2))
    killed_after(run_dir, first, eventually, *with_workers(run_dir, 1))
    killed_after(run_dir, second, eventually, *with_workers(run_dir, 2))
    assert finished(run_dir, *with_workers(run_dir, 0)) == ExitCode.OK, run_dir.log_file.read_text()
    assert curve(run_dir) == curve(alone)
    assert weights(run_dir) == weights(alone)


def with_workers(run_dir: RunDir, workers: int) -> tuple[str, ...]:
    return "tests.lcl_core.train.data_workers_run", str(workers), str(run_dir.path)


def test_two_ranks_killed_twice(tmp_path: Path, sample_zip: Path, eventually: Callable[..., None]) -> None:
    two = {**OFTEN, "engine": {"processes": 2}}
    alone, run_dir = (prepared(tmp_path / name, sample_zip, **two) for name in ("alone", "killed"))
    assert finished(alone) == ExitCode.OK, alone.log_file.read_text()
    for step in (5, 16):
        killed_after(run_dir, step, eventually)
    assert finished(run_dir) == ExitCode.OK, run_dir.log_file.read_text()
    assert curve(run_dir) == curve(alone)
    assert weights(run_dir) == weights(alone)


def is_free(run_dir: RunDir) -> bool:
    """Whether the directory can be locked; it is then."""
    try:
        run_dir.lock()
    except UserError:
        return False
    return True


def test_data_workers_leave_with_their_trainer(
    tmp_path: Path, sample_zip: Path, eventually: Callable[..., None]
) -> None:
    """As when the system's memory guard kills one process: what stayed would hold the directory for ever."""
    run_dir = prepared(tmp_path, sample_zip, steps=100_000, log_every=1)
    with started(run_dir, *with_workers(run_dir, 2)) as process:
        eventually(lambda: logged_steps(run_dir) >= 2 or process.poll() is not None, "the first steps")
        assert len(group(process.pid)) == 3
        process.kill()
        process.wait()
        eventually(lambda: not group(process.pid), "the end of the data workers")
    eventually(lambda: is_free(run_dir), "the release of the directory")
