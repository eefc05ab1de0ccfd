"""Several ranks under one process: how they leave together, and what their supervisor learns."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import ExitCode
from tests.fake_nvidia_smi import gpu_id
from tests.lcl_core.train.small_runs import finished, group, logged_steps, prepared, started
from workers.failure_table import infrastructure_cause, last_error_line

# long enough that none ends by itself while a test looks at it
ENDLESS = {"steps": 100_000, "log_every": 1, "checkpoint_every": 50_000, "engine": {"processes": 2}}


@pytest.fixture
def run_dir(tmp_path, sample_zip):
    return prepared(tmp_path, sample_zip, **ENDLESS)


def ranks(leader):
    """The process of each rank, by rank: the launcher's children in the order of their start."""
    children = []
    for pid in group(leader):
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == leader:
                children.append((int(fields[19]), pid))
    return {rank: pid for rank, (_, pid) in enumerate(sorted(children))}


def at_work(run_dir, process, eventually):
    """Wait for the first steps. Returns: the process of each rank."""
    eventually(lambda: logged_steps(run_dir) >= 2 or process.poll() is not None, "the first steps")
    assert process.poll() is None, run_dir.log_file.read_text()
    found = ranks(process.pid)
    assert sorted(found) == [0, 1]
    return found


def saved_step(run_dir):
    [folder] = run_dir.checkpoints.glob("step_*")
    return int(folder.name.removeprefix("step_"))


@pytest.mark.extended
def test_bad_input_is_told_and_no_rank_stays(run_dir, eventually):
    """The first rank finds the directory busy; the other waits for it to come and would do so for ever."""
    run_dir.lock()
    with started(run_dir) as process:
        assert process.wait(timeout=180) == ExitCode.USER_ERROR
        eventually(lambda: not group(process.pid), "the end of the ranks")
    assert json.loads(run_dir.error_file.read_text())["code"] == "run_dir_busy"


@pytest.mark.extended
def test_a_run_does_not_compute_on_the_cpu_with_a_gpu_leased(tmp_path, sample_zip, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpu_id(0))  # which no machine has
    run_dir = prepared(tmp_path, sample_zip, **{**ENDLESS, "engine": {"processes": 1}})
    with started(run_dir, supervised=True) as process:
        assert process.wait(timeout=180) == ExitCode.USER_ERROR, run_dir.log_file.read_text()
    assert json.loads(run_dir.error_file.read_text())["code"] == "invalid_value"
    assert logged_steps(run_dir) == 0


def test_sigterm_leaves_a_checkpoint(run_dir, eventually):
    with started(run_dir) as process:
        at_work(run_dir, process, eventually)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=180) == ExitCode.CANCELLED, run_dir.log_file.read_text()
        eventually(lambda: not group(process.pid), "the end of the ranks")
    assert saved_step(run_dir) >= 2


@pytest.mark.extended
@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_rank_takes_the_others_along(run_dir, eventually, lost):
    with started(run_dir) as process:
        os.kill(at_work(run_dir, process, eventually)[lost], signal.SIGKILL)
        # as one process alone would leave: the supervisor tries again what was ended from outside
        assert process.wait(timeout=180) == -signal.SIGKILL
        eventually(lambda: not group(process.pid), "the end of the ranks and their data workers")
    assert not run_dir.error_file.exists()


@pytest.mark.parametrize(
    ("processes", "error", "status", "told"),
    [
        (2, "bug", ExitCode.CRASH, "ValueError: a broken image"),
        pytest.param(
            4, "memory", ExitCode.OUT_OF_MEMORY, "OutOfMemoryError: CUDA out of memory", marks=pytest.mark.extended
        ),
    ],
)
def test_a_rank_that_fails_alone_is_the_cause(tmp_path, sample_zip, processes, error, status, told):
    """Although the end of its process group waits for the others, as over NCCL, and they then fail too."""
    run_dir = prepared(tmp_path, sample_zip, **{**ENDLESS, "engine": {"processes": processes}})
    (tmp_path / "fault.json").write_text(json.dumps({"rank": 1, "step": 3, "error": error}))
    assert finished(run_dir, "tests.lcl_core.train.faulty_ranks", str(tmp_path)) == status, run_dir.log_file.read_text()
    assert told in last_error_line(run_dir.log_file, 0)
    assert infrastructure_cause(run_dir.log_file.read_text().splitlines()) is None


def is_free(run_dir):
    try:
        run_dir.lock()
    except UserError:
        return False
    return True


@pytest.mark.extended
def test_ranks_leave_with_their_launcher(run_dir, eventually):
    with started(run_dir) as process:
        found = at_work(run_dir, process, eventually)
        process.kill()
        process.wait()
        eventually(lambda: not set(found.values()) & set(group(process.pid)), "the end of the ranks")
        eventually(lambda: not group(process.pid), "the end of their data workers")
    eventually(lambda: is_free(run_dir), "the directory's release")


@pytest.mark.extended
def test_the_launcher_leaves_with_its_supervisor(run_dir, eventually):
    with started(run_dir, supervised=True) as process:
        at_work(run_dir, process, eventually)
        assert process.stdin is not None
        process.stdin.close()
        eventually(lambda: not group(process.pid), "the end of launcher and ranks")
    eventually(lambda: is_free(run_dir), "the directory's release")
