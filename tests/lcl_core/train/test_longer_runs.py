"""A training that starts from a checkpoint of another one equals one that was never interrupted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from lcl_core.common.run_dir import RunDir
from tests.lcl_core.train.small_runs import curve, prepared, trainer, weights
from workers.prepare_run import copy_milestone

RATES = {"lr": 2e-3, "warmup_steps": 2, "schedule": "constant"}


def trained(path: Path, sample_zip: Path, steps: int, parent: RunDir | None = None, **changes: Any) -> RunDir:
    run_dir = prepared(path, sample_zip, steps=steps, optimizer=RATES, **changes)
    if parent is not None:
        shutil.copytree(parent.checkpoints, run_dir.checkpoints, dirs_exist_ok=True)
        shutil.copyfile(parent.metrics_file, run_dir.metrics_file)
    trainer(run_dir).run()
    return run_dir


@pytest.mark.parametrize(
    ("changes", "lines"),
    [({}, [4, 8]), ({"log_every": 3, "objective": {"hold_gradient_ratio": 0.5}}, [3, 4, 6, 8])],
    ids=["plain", "held ratio"],
)
def test_going_on_is_the_same_to_the_last_bit(
    tmp_path: Path, sample_zip: Path, changes: dict[str, Any], lines: list[int]
) -> None:
    short = trained(tmp_path / "short", sample_zip, 4, **changes)
    heir = trained(tmp_path / "heir", sample_zip, 8, parent=short, **changes)
    assert [line["step"] for line in curve(heir)] == lines
    assert weights(heir) == weights(trained(tmp_path / "whole", sample_zip, 8, **changes)) != weights(short)


def test_a_branch_of_a_milestone_is_the_same_to_the_last_bit(tmp_path: Path, sample_zip: Path) -> None:
    """With its trunk's schedule it gives the trunk's weights; with a decay, those of a whole run with that decay."""

    def run(name: str, steps: int, rates: dict[str, Any], branch: int | None = None, **more: Any) -> RunDir:
        if branch is not None:
            more["branch"] = {"run": "run_0123456789abcdef01", "step": branch}
        run_dir = prepared(
            tmp_path / name, sample_zip, steps=steps, optimizer=rates, checkpoint_every=3, ema_decay=0.9, **more
        )
        if branch is not None:
            copy_milestone(trunk, run_dir, branch)
        trainer(run_dir).run()
        return run_dir

    trunk = run("trunk", 8, RATES, milestone_every=3, keep_checkpoints=1)
    assert [path.name for path in sorted(trunk.checkpoints.iterdir())] == [f"step_{n:08d}" for n in (3, 6, 8)]
    same = run("same", 8, RATES, branch=3)
    assert (curve(same), weights(same)) == (curve(trunk), weights(trunk))
    cool_down = {**RATES, "schedule": "constant_with_decay", "decay_steps": 2}
    branch, whole = run("branch", 8, cool_down, branch=6), run("whole", 8, cool_down)
    assert (curve(branch), weights(branch)) == (curve(whole), weights(whole))
    assert weights(branch) != weights(trunk)
