"""The agent on a node, without an engine."""

from __future__ import annotations

import os
import signal

import pytest

from lcl_core.common.run_dir import ExitCode
from workers.executors.job_folder import JobFolder, StartOrder
from workers.executors.node_agent import main


@pytest.mark.parametrize("silent", [3600, 0])
def test_a_job_that_lost_its_worker_before_its_start_does_not_start(tmp_path, monkeypatch, silent):
    """As when it has waited in the engine's queue."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest has its own handlers
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "ends_at_once.py").touch()
    folder, run_dir = JobFolder(tmp_path / "agent" / "name"), tmp_path / "run"
    run_dir.mkdir()
    folder.create(StartOrder("ends_at_once", str(run_dir), "title", [], 1, 0, 60.0, 300.0, 30.0))
    written = folder.control_file.stat().st_mtime - silent
    os.utime(folder.control_file, (written, written))
    assert main(folder) == ExitCode.OK
    report = folder.read_report(0)
    if silent:
        assert (report.status, report.log_start) == (ExitCode.CANCELLED, None)
        assert not (run_dir / "log.txt").exists()
    else:
        assert report.status == ExitCode.OK
        assert report.log_start is not None
