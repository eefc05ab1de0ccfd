"""A training that a fork server forked, with its ranks, is bit by bit that of new processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lcl_core.common.fork_server import AVAILABLE, ForkedProcess
from lcl_core.common.run_dir import ExitCode
from tests.lcl_core.train.small_runs import curve, prepared, started, weights
from workers.executors.local import FORK_SERVER

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="jobs are forked on Linux alone")


def is_forked(run_dir):
    with started(run_dir) as process:
        assert process.wait(240) == ExitCode.OK, run_dir.log_file.read_text()
        return isinstance(process, ForkedProcess)


@pytest.fixture(autouse=True)
def environment_of_the_start(monkeypatch):
    """Without the variables that libraries of other tests set: a job is forked only in the server's environment."""
    initial = {entry.partition("=")[0] for entry in Path("/proc/self/environ").read_text().split("\0")}
    for name in os.environ.keys() - initial:
        if not name.startswith(("LCL_", "GRADIO_", "PYTEST_")):
            monkeypatch.delenv(name)


@pytest.mark.extended
@pytest.mark.parametrize("processes", [1, 2])
def test_it_learns_the_same(tmp_path, sample_zip, monkeypatch, eventually, processes):
    engine = {"engine": {"processes": processes}}
    server = os.environ[FORK_SERVER]
    monkeypatch.setenv(FORK_SERVER, "off")
    new = prepared(tmp_path / "new", sample_zip, **engine)
    assert not is_forked(new)
    monkeypatch.setenv(FORK_SERVER, server)
    forked = []

    def fork():
        forked.append(prepared(tmp_path / f"forked-{len(forked)}", sample_zip, **engine))
        return is_forked(forked[-1])

    eventually(fork, "the fork server")
    assert curve(forked[-1]) == curve(new)
    assert weights(forked[-1]) == weights(new)
