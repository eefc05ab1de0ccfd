"""A training that a fork server forked, with its ranks, is bit by bit that of new processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from lcl_core.common.fork_server import ForkedProcess
from lcl_core.common.run_dir import ExitCode
from tests.lcl_core.train import small_runs
from tests.lcl_core.train.small_runs import curve, prepared, started, weights

pytestmark = [
    pytest.mark.extended,
    pytest.mark.skipif(sys.platform != "linux", reason="jobs are forked on Linux alone"),
]


def is_forked(run_dir):
    with started(run_dir) as process:
        assert process.wait(240) == ExitCode.OK, run_dir.log_file.read_text()
        return isinstance(process, ForkedProcess)


@pytest.mark.parametrize("processes", [1, 2])
def test_it_learns_the_same(tmp_path, sample_zip, monkeypatch, processes):
    initial = {entry.partition("=")[0] for entry in Path("/proc/self/environ").read_text().split("\0")}
    for name in os.environ.keys() - initial:  # a job is forked only in the server's environment
        if not name.startswith(("LCL_", "GRADIO_", "PYTEST_", "OMP_")):
            monkeypatch.delenv(name)
    engine = {"engine": {"processes": processes}}
    forked = prepared(tmp_path / "forked", sample_zip, **engine)
    assert is_forked(forked)
    monkeypatch.setattr(small_runs, "SERVER", None)
    new = prepared(tmp_path / "new", sample_zip, **engine)
    assert not is_forked(new)
    assert curve(forked) == curve(new)
    assert weights(forked) == weights(new)
