"""Jobs of one machine are forked where their libraries are slow to import, and else are new processes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from lcl_core.common.fork_server import AVAILABLE
from lcl_core.common.run_dir import RunDir
from workers.executors import local
from workers.executors.local import FORK_SERVER, JobProcess, fork_server


@pytest.fixture
def run_dir(tmp_path, monkeypatch):
    """Beside two modules that are jobs; a fork server has the libraries of one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(FORK_SERVER, "off")
    monkeypatch.setattr(local, "FORKED", {"slow_job": "json"})
    code = "import sys; print(sys.orig_argv[1:]); sys.exit(5 + len(sys.stdin.read()))"
    for name in ("slow_job", "quick_job"):
        (tmp_path / f"{name}.py").write_text(code)
    return RunDir(tmp_path)


def is_forked(module, run_dir):
    """Whether the process, which must do its work, came from a fork server."""
    with JobProcess(module, run_dir, "title", (), {"LCL_NODE": "1"}) as process:
        assert process.wait(0) is None
        assert process._process.stdin is not None
        process._process.stdin.close()
        assert process.wait(60) == 5
        written = run_dir.log_file.read_bytes()[process.log_start :].decode()
    assert written == f"['-m', '{module}', '{run_dir.path}']\n"
    return not isinstance(process._process, subprocess.Popen)


@pytest.mark.skipif(not AVAILABLE, reason="jobs are forked on Linux alone")
def test_jobs_whose_libraries_are_slow_to_import_are_forked(run_dir, eventually):
    with fork_server("auto", ["slow_job", "quick_job"]):
        eventually(lambda: is_forked("slow_job", run_dir), "the server")
        assert not is_forked("quick_job", run_dir)
    assert not Path(os.environ[FORK_SERVER]).exists()
    assert not is_forked("slow_job", run_dir)


@pytest.mark.parametrize(("setting", "modules"), [("off", ["slow_job"]), ("auto", ["quick_job"]), ("/nowhere", [])])
def test_without_a_server_they_are_new_processes(run_dir, setting, modules):
    with fork_server(setting, modules):
        assert not is_forked("slow_job", run_dir)
