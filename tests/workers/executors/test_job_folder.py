"""The files by which a worker and the nodes of a job communicate, and the agent on a node, without an engine."""

from __future__ import annotations

import os
import shutil
import signal

import pytest

from lcl_core.common.run_dir import ExitCode
from workers.executors.job_folder import CommandReader, JobFolder, NodeReport, StartOrder
from workers.executors.node_agent import main

START = StartOrder("module", "/run", "title", ["s3"], 2, 0, 60.0, 300.0, 30.0)


@pytest.fixture
def folder(tmp_path):
    folder = JobFolder(tmp_path / "agent" / "name")
    folder.create(START)
    return folder


@pytest.fixture
def reader(folder):
    return CommandReader(folder.control_file)


def test_commands_of_the_last_owner_alone_are_executed_once(folder, reader):
    folder.attach("first")
    folder.command("first", "terminate")
    assert reader.read() == ["terminate"]
    folder.attach("second")
    folder.command("first", "kill")
    folder.command("second", "stacks a1")
    assert reader.read() == ["stacks a1"]
    assert reader.read() == []
    assert folder.owner() == "second"


def test_an_incomplete_line_is_read_when_it_is_complete(folder, reader):
    folder.attach("first")
    with folder.control_file.open("a") as file:
        file.write('{"owner": "first", "comm')
    assert reader.read() == []
    with folder.control_file.open("a") as file:
        file.write('and": "kill"}\n')
    assert reader.read() == ["kill"]


def test_later_lines_of_a_report_add_to_earlier_ones(folder):
    assert folder.read_start() == START
    assert folder.read_report(1) == NodeReport()
    folder.report(1, address="n2:1")
    folder.report(1, log_start=5)
    folder.report(1, status=0)
    assert folder.read_report(1) == NodeReport(address="n2:1", log_start=5, status=0)
    assert folder.read_report(0) == NodeReport()


def test_a_later_attempt_removes_the_folder(folder, reader):
    folder.output_file.write_text("one\ntwo\n\n")
    assert folder.last_output() == "two"
    shutil.rmtree(folder.path)
    assert (folder.owner(), folder.last_output(), folder.read_report(0)) == ("", "", NodeReport())
    with pytest.raises(FileNotFoundError):
        reader.read()
    with pytest.raises(FileNotFoundError):
        folder.attach("second")


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
