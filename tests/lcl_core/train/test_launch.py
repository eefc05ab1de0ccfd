"""Several ranks under one process: how they leave together, and what their supervisor learns."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from lcl_core.common import threads
from lcl_core.common.errors import UserError
from lcl_core.common.forked_process import Process
from lcl_core.common.run_dir import ExitCode, RunDir
from lcl_core.common.threads import SPIN_COUNT, WAIT_VARIABLES
from lcl_core.train import launch
from tests.fake_nvidia_smi import gpu_id
from tests.lcl_core.train.small_runs import finished, group, logged_steps, prepared, started

# long enough that none ends by itself while a test looks at it
ENDLESS = {"steps": 100_000, "log_every": 1, "checkpoint_every": 50_000, "engine": {"processes": 2}}


@pytest.fixture
def run_dir(tmp_path: Path, sample_zip: Path) -> RunDir:
    return prepared(tmp_path, sample_zip, **ENDLESS)


class EndedRank:
    """A rank that has done its work."""

    def wait(self, timeout: float | None = None) -> int:
        return 0


@pytest.fixture
def environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """What two ranks of one machine are started with; ``port`` says whether theirs is taken by then."""
    found: list[dict[str, str]] = []

    def start(module: str, arguments: list[str], environment: dict[str, str], others: list[Process]) -> EndedRank:
        taken = True
        with socket.socket() as other, suppress(OSError):
            other.bind((environment["MASTER_ADDR"], int(environment["MASTER_PORT"])))
            taken = False
        found.append({**environment, "port": "taken" if taken else "free"})
        return EndedRank()

    monkeypatch.setattr(launch, "start_in_group", start)
    monkeypatch.setattr(launch.signal, "signal", lambda *_: None)
    monkeypatch.setattr(RunDir, "watch_signals", lambda _: None)
    for name in ("OMP_NUM_THREADS", *WAIT_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "usable_cores", lambda: 8)
    assert launch.launch(str(tmp_path), 2) == ExitCode.OK
    return found


def test_nobody_else_can_take_the_port_of_the_ranks_before_they_listen(environments: list[dict[str, str]]) -> None:
    assert [environment["port"] for environment in environments] == ["taken", "taken"]


def test_ranks_share_the_cores_and_wait_without_polling_for_long(environments: list[dict[str, str]]) -> None:
    for environment in environments:
        assert (environment["OMP_NUM_THREADS"], environment["GOMP_SPINCOUNT"]) == ("4", str(SPIN_COUNT))


def ranks(leader: int) -> dict[int, int]:
    """The process of each rank, by rank: the launcher's children in the order of their start."""
    children = []
    for pid in group(leader):
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == leader:
                children.append((int(fields[19]), pid))
    return {rank: pid for rank, (_, pid) in enumerate(sorted(children))}


def at_work(run_dir: RunDir, process: Process, eventually: Callable[..., None]) -> dict[int, int]:
    """Wait for the first steps. Returns: the process of each rank."""
    eventually(lambda: logged_steps(run_dir) >= 2 or process.poll() is not None, "the first steps")
    assert process.poll() is None, run_dir.log_file.read_text()
    found = ranks(process.pid)
    assert sorted(found) == [0, 1]
    return found


def saved_step(run_dir: RunDir) -> int:
    [folder] = run_dir.checkpoints.glob("step_*")
    return int(folder.name.removeprefix("step_"))


def test_bad_input_is_told_and_no_rank_stays(run_dir: RunDir, eventually: Callable[..., None]) -> None:
    """The first rank finds the directory busy; the other waits for it to come and would do so for ever."""
    run_dir.lock()
    with started(run_dir) as process:
        assert process.wait(timeout=180) == ExitCode.USER_ERROR
        eventually(lambda: not group(process.pid), "the end of the ranks")
    assert json.loads(run_dir.error_file.read_text())["code"] == "run_dir_busy"


def test_bad_data_is_told(tmp_path: Path, sample_zip: Path) -> None:
    changed = {**ENDLESS, "data": {"sources": [{"dataset": "other"}]}}
    run_dir = prepared(tmp_path, sample_zip, **changed)
    assert finished(run_dir) == ExitCode.USER_ERROR
    assert json.loads(run_dir.error_file.read_text())["field"] == "data.sources.0.dataset"


def test_a_run_does_not_compute_on_the_cpu_with_a_gpu_leased(
    tmp_path: Path, sample_zip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpu_id(0))  # which no machine has
    run_dir = prepared(tmp_path, sample_zip, **{**ENDLESS, "engine": {"processes": 1}})
    with started(run_dir, supervised=True) as process:
        assert process.wait(timeout=180) == ExitCode.USER_ERROR, run_dir.log_file.read_text()
    assert json.loads(run_dir.error_file.read_text())["code"] == "no_cuda"
    assert logged_steps(run_dir) == 0


def test_sigterm_leaves_a_checkpoint_and_the_run_goes_on(run_dir: RunDir, eventually: Callable[..., None]) -> None:
    with started(run_dir) as process:
        at_work(run_dir, process, eventually)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=180) == ExitCode.CANCELLED, run_dir.log_file.read_text()
        eventually(lambda: not group(process.pid), "the end of the ranks")
    step = saved_step(run_dir)
    assert step >= 2
    run = run_dir.read_run()
    run["spec"]["steps"] = step + 2
    run_dir.prepare(run)
    assert finished(run_dir) == ExitCode.OK, run_dir.log_file.read_text()
    assert logged_steps(run_dir) == step + 2


def test_sigterm_to_one_rank_stops_both_after_the_same_step(run_dir: RunDir, eventually: Callable[..., None]) -> None:
    """As when one of several machines is to be given back."""
    with started(run_dir) as process:
        os.kill(at_work(run_dir, process, eventually)[1], signal.SIGTERM)
        assert process.wait(timeout=180) == ExitCode.CANCELLED, run_dir.log_file.read_text()
    assert saved_step(run_dir) >= 2
    assert "Traceback" not in run_dir.log_file.read_text()


@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_rank_takes_the_others_along(run_dir: RunDir, eventually: Callable[..., None], lost: int) -> None:
    with started(run_dir) as process:
        os.kill(at_work(run_dir, process, eventually)[lost], signal.SIGKILL)
        # as one process alone would leave: the supervisor tries again what was ended from outside
        assert process.wait(timeout=180) == -signal.SIGKILL
        eventually(lambda: not group(process.pid), "the end of the ranks and their data workers")
    assert not run_dir.error_file.exists()


def is_free(run_dir: RunDir) -> bool:
    try:
        run_dir.lock()
    except UserError:
        return False
    return True


def test_ranks_leave_with_their_launcher(run_dir: RunDir, eventually: Callable[..., None]) -> None:
    with started(run_dir) as process:
        found = at_work(run_dir, process, eventually)
        process.kill()
        process.wait()
        eventually(lambda: not set(found.values()) & set(group(process.pid)), "the end of the ranks")
        eventually(lambda: not group(process.pid), "the end of their data workers")
    eventually(lambda: is_free(run_dir), "the directory's release")


def test_the_launcher_leaves_with_its_supervisor(run_dir: RunDir, eventually: Callable[..., None]) -> None:
    with started(run_dir, supervised=True) as process:
        at_work(run_dir, process, eventually)
        assert process.stdin is not None
        process.stdin.close()
        eventually(lambda: not group(process.pid), "the end of launcher and ranks")
    eventually(lambda: is_free(run_dir), "the directory's release")
