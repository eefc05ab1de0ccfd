"""Jobs of one machine are forked where their libraries are slow to import, and else are new processes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lcl_core.common.run_dir import RunDir
from workers.executors import local
from workers.executors.base import JobRequest
from workers.executors.local import LocalExecutor


@pytest.mark.skipif(sys.platform != "linux", reason="jobs are forked on Linux alone")
def test_jobs_whose_libraries_are_slow_to_import_are_forked(tmp_path, monkeypatch, settings):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(local, "FORKED", {"slow_job": "json"})
    run_dir, executor, forked = RunDir(tmp_path), LocalExecutor(settings), {}
    with executor.serving(["slow_job", "quick_job"]):
        for name in ("slow_job", "quick_job"):
            (tmp_path / f"{name}.py").write_text("import sys; print(sys.orig_argv[1:]); sys.exit(5)")
            with executor.start(JobRequest(name, run_dir, "title", env={"LCL_NODE": "1"}), print) as job:
                assert job.wait(60) == 5
                written = run_dir.log_file.read_bytes()[job.log_start :].decode()
            assert written == f"['-m', '{name}', '{tmp_path}']\n"
            forked[name] = not isinstance(job._process, subprocess.Popen)
    assert forked == {"slow_job": True, "quick_job": False}
