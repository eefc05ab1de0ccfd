"""The last words of a process, and endings that the toy cannot easily show."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lcl_core.common.errors import UserError
from lcl_core.common.files import write_json_atomically
from lcl_core.common.run_dir import ExitCode, RunDir
from lcl_core.db.complete_run import RunCancelled, RunFailed, RunSucceeded
from lcl_core.db.leases import Claim, StaleLease
from lcl_core.db.queue import EngineCapacity
from lcl_core.db.session import Database
from tests.workers.in_process_worker import InProcessWorker
from workers import exit_outcome
from workers.executors.local import LocalExecutor
from workers.exit_outcome import (
    HIDDEN_SECONDS,
    ProcessExit,
    Requeue,
    StopReason,
    await_outcome_file,
    classify_exit,
    last_error_line,
)
from workers.settings import WorkerSettings

TRACEBACK = 'Traceback (most recent call last):\n  File "a.py", line 1, in f\n    f()\nValueError: bad\n'


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    (tmp_path / "log.txt").write_text("")
    return RunDir(tmp_path)


def verdict(run_dir: RunDir, status: int, ending: StopReason | None = None, **facts: Any) -> Any:
    claim = Claim(
        run_id="run_1",
        token="t",
        worker="w",
        kind="index",
        spec={"timeout_seconds": 5},
        attempt=1,
        max_attempts=3,
        from_scratch=False,
        ran_seconds=0.0,
    )
    return classify_exit(claim, run_dir, ProcessExit(status, ending, facts.get("log_start", 0)))


def test_checkpoints_that_cannot_be_read_are_tried_again(run_dir: RunDir) -> None:
    run_dir.error_file.write_text(json.dumps({"code": "checkpoint_unreadable", "message": "no answer"}))
    outcome = verdict(run_dir, ExitCode.USER_ERROR)
    assert isinstance(outcome, Requeue)
    assert (outcome.cause, outcome.uses_attempt) == ("no answer", False)


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("", ""),
        ("one\ntwo\n\n", "two"),
        (f"start\n{TRACEBACK}", "ValueError: bad"),
        (f"{TRACEBACK}warning: leaked semaphores\n", "ValueError: bad"),
        (f"{TRACEBACK}\nDuring handling of it:\n\n{TRACEBACK.replace('bad', 'worse')}", "ValueError: worse"),
        ("x" * 2000, "x" * 500),
    ],
)
def test_last_words(tmp_path: Path, log: str, words: str) -> None:
    (tmp_path / "log.txt").write_text(log)
    assert last_error_line(tmp_path / "log.txt", 0) == words


def test_last_words_are_this_attempts_own(run_dir: RunDir) -> None:
    run_dir.log_file.write_text(TRACEBACK)
    start = run_dir.log_file.stat().st_size
    assert last_error_line(run_dir.log_file, start) == ""
    assert "status 1" in verdict(run_dir, 1, log_start=start).reason["message"]


@pytest.mark.parametrize("status", [0, -6, 1])
def test_a_result_outweighs_a_bad_exit(run_dir: RunDir, status: int) -> None:
    run_dir.write_result({"a": 1})
    assert verdict(run_dir, status, StopReason.CANCEL) == RunSucceeded({"a": 1})


@pytest.mark.parametrize("status", [ExitCode.CANCELLED, -9, 1])
def test_what_the_supervisor_wanted_decides(run_dir: RunDir, status: int) -> None:
    assert verdict(run_dir, status, StopReason.CANCEL) == RunCancelled()
    assert not verdict(run_dir, status, StopReason.SHUTDOWN).uses_attempt
    assert verdict(run_dir, status, StopReason.TIMEOUT).reason["code"] == "timeout"


@pytest.mark.parametrize("status", [-9, -15, ExitCode.CANCELLED])
def test_an_end_that_nobody_here_asked_for_is_worth_another_attempt(run_dir: RunDir, status: int) -> None:
    assert isinstance(verdict(run_dir, status), Requeue)
    assert verdict(run_dir, status).uses_attempt


def test_a_busy_directory_is_no_fault_of_the_run(run_dir: RunDir) -> None:
    write_json_atomically(run_dir.error_file, {"code": "run_dir_busy", "message": "m"})
    assert isinstance(verdict(run_dir, ExitCode.USER_ERROR), Requeue)


def test_a_store_that_did_not_answer_costs_no_attempt_and_one_that_refused_fails_the_run(run_dir: RunDir) -> None:
    write_json_atomically(run_dir.error_file, {"code": "store_unreachable", "message": "m"})
    found = verdict(run_dir, ExitCode.USER_ERROR)
    assert isinstance(found, Requeue)
    assert (found.rule.cause, found.uses_attempt) == ("store_unreachable", False)
    write_json_atomically(run_dir.error_file, {"code": "artifacts_pending", "message": "m"})
    assert verdict(run_dir, ExitCode.USER_ERROR) == Requeue.by("artifacts_pending", "m")
    write_json_atomically(run_dir.error_file, {"code": "store_forbidden", "message": "m"})
    assert verdict(run_dir, ExitCode.USER_ERROR) == RunFailed({"code": "store_forbidden", "message": "m"})


def test_out_of_memory_names_the_field_to_lower(run_dir: RunDir) -> None:
    found = verdict(run_dir, ExitCode.OUT_OF_MEMORY)
    assert isinstance(found, RunFailed)
    assert (found.reason["code"], "batch_size" in found.reason["message"]) == ("out_of_memory", True)


def test_ranks_that_did_not_meet_cost_no_attempt(run_dir: RunDir) -> None:
    problem = "the 2 processes of the run did not connect to 10.0.0.7:4711 within 300 s"
    run_dir.log_file.write_text(f"error: {problem}\n")
    found = verdict(run_dir, ExitCode.RENDEZVOUS_FAILED)
    assert isinstance(found, Requeue)
    assert (found.rule.cause, found.uses_attempt, found.cause) == ("rendezvous_failed", False, problem)


class CachedFolder:
    """An NFS client's cache of a folder: new names appear when the folder is changed from here, or time has passed.

    Its clock is the test's.
    """

    def __init__(self, run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds, self.shows_at = 0.0, float("inf")
        self._folder = run_dir.path
        os.utime(self._folder, (1, 1))
        self.sees_own_changes = True
        clock = SimpleNamespace(monotonic=lambda: self.seconds, sleep=self.sleep)
        monkeypatch.setattr(exit_outcome, "time", clock)
        run_dir.result_file, run_dir.error_file = self.file("result.json"), self.file("error.json")

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def file(self, name: str) -> Any:
        path = self._folder / name
        return SimpleNamespace(exists=lambda: self._is_fresh() and path.exists(), read_text=path.read_text)

    def _is_fresh(self) -> bool:
        changed = self.sees_own_changes and self._folder.stat().st_mtime != 1
        return changed or self.seconds >= self.shows_at


@pytest.fixture
def cached(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> CachedFolder:
    write_json_atomically(run_dir.result_file, {"a": 1})
    return CachedFolder(run_dir, monkeypatch)


@pytest.mark.parametrize("sees_own_changes", [True, False])
def test_a_result_of_another_machine_is_waited_for(
    run_dir: RunDir, cached: CachedFolder, sees_own_changes: bool
) -> None:
    cached.sees_own_changes, cached.shows_at = sees_own_changes, 60.0
    assert verdict(run_dir, 0).reason["code"] == "no_result"
    await_outcome_file(run_dir, ProcessExit(0, None, 0), lambda: None)
    assert verdict(run_dir, 0) == RunSucceeded({"a": 1})
    assert cached.seconds == (0.0 if sees_own_changes else 60.0)


@pytest.mark.parametrize(
    ("status", "ending", "waits"),
    [
        (0, None, True),
        (ExitCode.USER_ERROR, None, True),
        (1, None, False),
        (ExitCode.CANCELLED, StopReason.PAUSE, False),
        (0, StopReason.DETACHED, False),
    ],
)
def test_only_what_the_exit_status_promises_is_waited_for(
    run_dir: RunDir, cached: CachedFolder, status: int, ending: StopReason | None, waits: bool
) -> None:
    cached.sees_own_changes = False
    await_outcome_file(run_dir, ProcessExit(status, ending, 0), lambda: None)
    assert cached.seconds == (HIDDEN_SECONDS if waits else 0.0)


def test_a_lost_lease_ends_the_wait(run_dir: RunDir, cached: CachedFolder) -> None:
    cached.sees_own_changes = False

    def check() -> None:
        if cached.seconds >= 3:
            raise StaleLease("run_1")

    with pytest.raises(StaleLease):
        await_outcome_file(run_dir, ProcessExit(0, None, 0), check)


class OtherMachines(LocalExecutor):
    """Places nodes, on this machine."""

    places_nodes = True

    def capacity(self) -> Any:
        return EngineCapacity("other", nodes=1, cpus=1.0, gpus=0.0, has_gpus=False)


def test_an_outcome_of_another_machine_may_become_visible_after_the_exit_status(
    database: Database,
    settings: WorkerSettings,
    modules: dict[str, str],
    queue: Callable[..., str],
    run_of: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LCL_TOY", "silent")
    worker = InProcessWorker(database, settings, modules, OtherMachines(settings))
    run_id = queue()

    def appear(_seconds: float) -> None:
        reason = UserError("no such thing", code="bad_thing").to_dict()
        write_json_atomically(worker.run_dir(run_id).error_file, reason)

    monkeypatch.setattr(exit_outcome, "time", SimpleNamespace(monotonic=time.monotonic, sleep=appear))
    worker.work()
    assert (run_of(run_id).state, run_of(run_id).reason["code"]) == ("failed", "bad_thing")
