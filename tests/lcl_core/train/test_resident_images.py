"""Runs whose images are decoded once, into a map that attempts, ranks and loaders share."""

from __future__ import annotations

import shutil

import pytest

from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import ExitCode
from tests.lcl_core.train.small_runs import TINY, curve, finished, killed_after, prepared, trainer, weights

DATA = {
    **TINY["data"],
    "resident": True,
    "augmentation": {"crop_scale": [0.5, 1.0], "flip_probability": 0.5, "colour_jitter": 0.2},
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, sample_zip):
    run_dir = prepared(tmp_path_factory.mktemp("undisturbed"), sample_zip, data=DATA)
    trainer(run_dir).run()
    return run_dir


def maps(run_dir):
    return sorted((run_dir.path / "cache" / "resident").glob("*/levels.u8"))


@pytest.mark.extended
def test_a_killed_run_goes_on_to_the_same_bits_also_where_the_map_was_evicted(
    undisturbed, tmp_path, sample_zip, eventually
):
    run_dir = prepared(tmp_path, sample_zip, data={**DATA, "workers": 2})
    killed_after(run_dir, 8, eventually)
    (levels,) = maps(run_dir)
    shutil.rmtree(levels.parent)
    assert finished(run_dir) == ExitCode.OK, run_dir.log_file.read_text()
    assert curve(run_dir) == curve(undisturbed)
    assert weights(run_dir) == weights(undisturbed)
    assert [each.read_bytes() for each in maps(run_dir)] == [each.read_bytes() for each in maps(undisturbed)]


@pytest.mark.extended
def test_two_ranks_share_one_map(tmp_path, sample_zip):
    run_dir = prepared(tmp_path, sample_zip, data={**DATA, "workers": 1}, engine={"processes": 2}, steps=2, log_every=1)
    assert finished(run_dir) == ExitCode.OK, run_dir.log_file.read_text()
    assert len(maps(run_dir)) == 1
    assert curve(run_dir)[-1]["step"] == 2


def test_a_limit_that_is_too_small_fails_the_run_by_name(tmp_path, sample_zip, monkeypatch):
    monkeypatch.setenv("LCL_DATA_CACHE_BYTES", "1000")
    with pytest.raises(UserError, match="LCL_DATA_CACHE_BYTES") as caught:
        trainer(prepared(tmp_path, sample_zip, data=DATA))
    assert caught.value.field == "data.resident"
