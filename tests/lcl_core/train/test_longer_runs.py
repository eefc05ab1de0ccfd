"""What a halving relies on: under a constant rate, a longer training goes on from a shorter one's checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

from lcl_core.common.run_dir import RunDir
from tests.lcl_core.train.small_runs import curve, prepared, trainer, weights

RATES = {"lr": 2e-3, "warmup_steps": 2, "schedule": "constant"}


def trained(path: Path, sample_zip: Path, steps: int, parent: RunDir | None = None) -> RunDir:
    run_dir = prepared(path, sample_zip, steps=steps, optimizer=RATES)
    if parent is not None:
        shutil.copytree(parent.checkpoints, run_dir.checkpoints, dirs_exist_ok=True)
        shutil.copyfile(parent.metrics_file, run_dir.metrics_file)
    trainer(run_dir).run()
    return run_dir


def test_going_on_is_the_same_to_the_last_bit(tmp_path: Path, sample_zip: Path) -> None:
    short = trained(tmp_path / "short", sample_zip, 4)
    heir = trained(tmp_path / "heir", sample_zip, 8, parent=short)
    assert [line["step"] for line in curve(heir)] == [4, 8]
    assert weights(heir) == weights(trained(tmp_path / "whole", sample_zip, 8)) != weights(short)
