"""Checkpoints come by the clock too, which changes nothing of the training; and what was damaged is told."""

from __future__ import annotations

import json
import shutil
import zipfile

import pytest

from lcl_core.common.run_dir import ExitCode
from tests.lcl_core.train.small_runs import finished, prepared, trainer

AT_ONCE = 1e-9  # minutes: a checkpoint is due after every step
ALL = {"steps": 8, "checkpoint_every": 1000, "keep_checkpoints": 100, "log_every": 1}


def saved(run_dir):
    return sorted(int(path.name.removeprefix("step_")) for path in run_dir.checkpoints.glob("step_*"))


@pytest.mark.parametrize(("given", "expected"), [(AT_ONCE, range(1, 9)), (None, [8]), (60, [8])])
def test_a_checkpoint_is_due_by_the_clock(tmp_path, sample_zip, given, expected):
    run_dir = prepared(tmp_path, sample_zip, **ALL, checkpoint_minutes=given)
    trainer(run_dir).run()
    assert saved(run_dir) == list(expected)


@pytest.mark.extended
def test_two_ranks_save_after_the_same_steps(tmp_path, sample_zip):
    run_dir = prepared(tmp_path, sample_zip, **ALL, checkpoint_minutes=AT_ONCE, engine={"processes": 2})
    assert finished(run_dir) == ExitCode.OK, run_dir.log_file.read_text()
    assert saved(run_dir) == list(range(1, 9))


def test_a_run_that_goes_on_with_other_data_says_so(tmp_path, sample_zip):
    folder = tmp_path / "sample"
    with zipfile.ZipFile(sample_zip) as archive:
        archive.extractall(folder)
    run_dir = prepared(tmp_path / "run", folder, steps=4, checkpoint_every=2)
    trainer(run_dir).run()
    shutil.rmtree(run_dir.checkpoints / "step_00000004")
    trainer(run_dir).run()
    assert not run_dir.notice_file.exists(), "the data are the same"
    shutil.rmtree(run_dir.checkpoints / "step_00000004")
    lines = (folder / "pairs.jsonl").read_text().splitlines(keepends=True)
    train = [number for number, line in enumerate(lines) if json.loads(line)["split"] == "train"]
    (folder / "pairs.jsonl").write_text("".join(lines[: train[-1]] + lines[train[-1] + 1 :]))
    trainer(run_dir).run()
    notice = json.loads(run_dir.notice_file.read_text())
    assert notice["code"] == "data_changed"
    told = f"data.sources.1: dataset 'sample' has {len(train) - 1:,} items, had {len(train):,} before"
    assert notice["message"] == f"{told}: the run goes on with the new data, in another order"
    run_dir.prepare(run_dir.read_run())
    trainer(run_dir).run()
    assert not run_dir.notice_file.exists(), "a later attempt finds the data that this one went on with"
    (run_dir.checkpoints / "step_00000004" / "state.json").write_text("{}")
    trainer(run_dir).run()
    notice = json.loads(run_dir.notice_file.read_text())
    assert notice["code"] == "checkpoint_damaged", "step 2 is of before the change, so both are reported"
    assert notice["message"].endswith(
        f"the run went on from that of step 2; {told}: the run goes on with the new data, in another order"
    )


@pytest.mark.parametrize("all_of_them", [False, True])
def test_a_damaged_checkpoint_is_left_as_a_notice(tmp_path, sample_zip, all_of_them):
    run_dir = prepared(tmp_path, sample_zip, steps=4, checkpoint_every=2)
    trainer(run_dir).run()
    assert not run_dir.notice_file.exists()
    damaged = saved(run_dir) if all_of_them else [4]
    for step in damaged:
        (run_dir.checkpoints / f"step_{step:08d}" / "state.json").write_text("{}")
    trainer(run_dir).run()
    notice = json.loads(run_dir.notice_file.read_text())
    assert notice["code"] == "checkpoint_damaged"
    assert "checkpoint step_00000004 is damaged (checksum of state.json does not match)" in notice["message"]
    end = "none was whole, so the run began anew" if all_of_them else "the run went on from that of step 2"
    assert notice["message"].endswith(end)
    run_dir.prepare(run_dir.read_run())
    assert not run_dir.notice_file.exists(), "the next attempt has its own"
