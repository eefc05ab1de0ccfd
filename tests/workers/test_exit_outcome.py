"""The last words of a process, and endings that the toy cannot easily show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lcl_core.common.files import write_json_atomically
from lcl_core.common.run_dir import ExitCode, RunDir
from lcl_core.db.complete_run import RunCancelled, RunFailed, RunSucceeded
from lcl_core.db.leases import Claim
from workers.exit_outcome import ProcessExit, Requeue, StopReason, classify_exit, last_error_line

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
