"""A training that starts from a checkpoint of another one equals one that was never interrupted."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.lcl_core.train.small_runs import curve, prepared, trainer, weights
from workers.supervisor import copy_milestone

RATES = {"lr": 2e-3, "warmup_steps": 2, "schedule": "constant"}


def last_line(run_dir, step):
    lines = [json.loads(line) for line in run_dir.metrics_file.read_text().splitlines()]
    return next(line for line in reversed(lines) if line["step"] == step and "loss" in line)


def trained(path, sample_zip, steps, parent=None, **changes):
    run_dir = prepared(path, sample_zip, steps=steps, optimizer=RATES, **changes)
    if parent is not None:
        shutil.copytree(parent.checkpoints, run_dir.checkpoints, dirs_exist_ok=True)
        shutil.copyfile(parent.metrics_file, run_dir.metrics_file)
    trainer(run_dir).run()
    return run_dir


@pytest.mark.parametrize(("changes", "lines"), [({}, [4, 8]), ({"log_every": 3}, [3, 4, 6, 8])])
def test_going_on_is_the_same_to_the_last_bit(tmp_path, sample_zip, changes, lines):
    short = trained(tmp_path / "short", sample_zip, 4, **changes)
    heir = trained(tmp_path / "heir", sample_zip, 8, parent=short, **changes)
    assert [line["step"] for line in curve(heir)] == lines
    assert weights(heir) == weights(trained(tmp_path / "whole", sample_zip, 8, **changes)) != weights(short)


def test_a_branch_of_a_milestone_is_the_same_to_the_last_bit(tmp_path, sample_zip):
    """With its trunk's schedule it gives the trunk's weights; with a decay, those of a whole run with that decay."""

    def run(name, steps, rates, branch=None, **more):
        if branch is not None:
            more["branch"] = {"run": "run_0123456789abcdef01", "step": branch}
        run_dir = prepared(tmp_path / name, sample_zip, steps=steps, optimizer=rates, checkpoint_every=3, **more)
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


def test_a_branch_may_read_other_sources(tmp_path, sample_zip):
    trunk = prepared(tmp_path / "trunk", sample_zip, steps=4, checkpoint_every=2, log_every=2, milestone_every=2)
    trainer(trunk).run()
    read = last_line(trunk, 2)["images.1.sample"]
    branch = prepared(
        tmp_path / "branch", sample_zip, steps=4, checkpoint_every=2, log_every=2,
        data={"sources": [{"view": "pairs"}]}, branch={"run": "run_0123456789abcdef01", "step": 2},
    )  # fmt: skip
    copy_milestone(trunk, branch, 2)
    trainer(branch).run()
    assert not branch.notice_file.exists(), "the spec says that the data are others"
    line = last_line(branch, 4)
    assert line["images.0.sample"] == read + 2 * 16, (
        "those of the same source are counted from the trunk's beginning on"
    )
    assert "images.1.sample" not in line
