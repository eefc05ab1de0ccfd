"""What the end of a process means for its run, one row a cause; and what is tried again, how often and when."""

import json
from types import SimpleNamespace

import pytest

from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import ExitCode, RunDir
from lcl_core.db.complete_run import RunCancelled, RunFailed, RunSucceeded
from lcl_core.db.leases import COUNTED, Claim, StaleLease
from workers import failure_table
from workers.executors.base import EngineUnreachable, MachineLost, NoCapacity
from workers.failure_table import (
    HIDDEN_SECONDS,
    INFRASTRUCTURE_RETRIES,
    LONGEST_DELAY_SECONDS,
    RULES,
    ProcessExit,
    Requeue,
    StopReason,
    await_outcome_file,
    classify_exit,
    infrastructure_cause,
    last_error_line,
)
from workers.lease_keeper import AttemptInterrupted
from workers.supervisor import outcome_of

TRACEBACK = 'Traceback (most recent call last):\n  File "a.py", line 1, in f\n    f()\nValueError: bad\n'
PORT = TRACEBACK.replace("ValueError: bad", "OSError: [Errno 98] Address already in use")
LOST = TRACEBACK.replace("ValueError: bad", "RuntimeError: [/src/gloo/transport/tcp/pair.cc:553] Connection closed")
CLAIM = Claim("run_1", "t", "w", "index", {"timeout_seconds": 5}, 1, 3, from_scratch=False, ran_seconds=0.0)
RESULT, BUSY = {"result.json": {"a": 1}}, {"error.json": {"code": "run_dir_busy", "message": "m"}}
STORE = {"error.json": {"code": "store_unreachable", "message": "m"}}
FORBIDDEN = {"error.json": {"code": "store_forbidden", "message": "m"}}


@pytest.fixture
def attempt(tmp_path):
    """Outcome of an attempt: (its class, its cause)."""

    def end(status=0, stop=None, log="", files=(), error=None, **claimed):
        for name, content in dict(files).items():
            (tmp_path / name).write_text(json.dumps(content))
        (tmp_path / "log.txt").write_text(log)
        claim, run_dir = CLAIM.__class__(**{**CLAIM.__dict__, **claimed}), RunDir(tmp_path)
        if error is not None:
            outcome = outcome_of(error, claim, run_dir)
        else:
            outcome = classify_exit(claim, run_dir, ProcessExit(status, stop, 0, loss="gone"))
        if isinstance(outcome, Requeue):
            return "requeued", outcome.rule.cause, outcome.keeps_processes
        if isinstance(outcome, RunFailed):
            return "failed", outcome.reason["code"], outcome.keeps_processes
        return outcome

    return end


@pytest.mark.parametrize("status", [0, 1, -6])
def test_a_result_outweighs_a_bad_exit(attempt, status):
    assert attempt(status, StopReason.CANCEL, files=RESULT) == RunSucceeded({"a": 1})


@pytest.mark.parametrize("status", [ExitCode.CANCELLED, -9, 1])
def test_a_cancelled_run_is_cancelled_however_its_process_ends(attempt, status):
    assert attempt(status, StopReason.CANCEL) == RunCancelled()


@pytest.mark.parametrize(
    ("end", "what", "cause"),
    [
        ({"stop": StopReason.PAUSE}, "requeued", "interrupted"),
        ({"stop": StopReason.SHUTDOWN, "status": -9}, "requeued", "interrupted"),
        ({"stop": StopReason.DATABASE}, "requeued", "database_away"),
        ({"stop": StopReason.MACHINE, "status": -9}, "requeued", "machine_lost"),
        ({"stop": StopReason.HUNG, "status": -9}, "requeued", "hung"),
        ({"stop": StopReason.TIMEOUT, "status": ExitCode.CANCELLED}, "failed", "timeout"),
        ({"status": -9}, "requeued", "killed"),
        ({"status": -15}, "requeued", "killed"),
        ({"status": ExitCode.CANCELLED}, "requeued", "killed"),
        ({"status": ExitCode.RENDEZVOUS_FAILED, "log": "error: not connected"}, "requeued", "rendezvous_failed"),
        ({"status": 1, "log": PORT}, "requeued", "address_in_use"),
        ({"status": ExitCode.USER_ERROR, "files": BUSY}, "requeued", "run_dir_busy"),
        ({"status": ExitCode.USER_ERROR, "files": STORE}, "requeued", "store_unreachable"),
        ({"status": ExitCode.USER_ERROR, "files": FORBIDDEN}, "failed", "store_forbidden"),
        ({"status": ExitCode.OUT_OF_MEMORY}, "failed", "out_of_memory"),
        ({"status": ExitCode.DISK_FULL}, "failed", "disk_full"),
        ({"status": 1, "log": TRACEBACK}, "failed", "crash"),
        ({"status": -11}, "failed", "crash"),
        ({"status": 1, "log": LOST}, "requeued", "network"),
        ({"status": -11, "log": LOST}, "failed", "crash"),  # the others lost the rank that ended so
        ({"status": 0}, "failed", "no_result"),
        ({"error": AttemptInterrupted("m")}, "requeued", "interrupted"),
        ({"error": NoCapacity("m")}, "requeued", "no_capacity"),
        ({"error": MachineLost("m")}, "requeued", "machine_lost"),
        ({"error": UserError("m", code="bad_setting")}, "failed", "bad_setting"),
        ({"error": UserError("m", code="artifacts_pending")}, "requeued", "artifacts_pending"),
        ({"error": OSError(5, "m")}, "failed", "storage"),
        ({"error": KeyError("ours")}, "failed", "internal"),
    ],
)
def test_each_end_has_its_cause(attempt, end, what, cause):
    assert attempt(**end) == (what, cause, False)


@pytest.mark.parametrize(
    ("end", "cause"),
    [
        ({"stop": StopReason.DETACHED}, "interrupted"),
        ({"error": EngineUnreachable("m")}, "machine_lost"),
        ({"error": AttemptInterrupted("m"), "handle": {"executor": "ray"}}, "interrupted"),
    ],
)
def test_processes_that_may_run_are_kept_for_the_next_worker(attempt, end, cause):
    assert attempt(**end) == ("requeued", cause, True)


def test_what_processes_wrote_before_their_machine_was_lost_counts(attempt):
    assert attempt(error=MachineLost("m"), files=RESULT) == RunSucceeded({"a": 1})


@pytest.mark.parametrize(
    ("log", "start", "words"),
    [
        ("", 0, ""),
        ("one\ntwo\n\n", 0, "two"),
        (f"{TRACEBACK}warning: leaked semaphores\n", 0, "ValueError: bad"),
        (f"{TRACEBACK}\nDuring handling of it:\n\n{TRACEBACK.replace('bad', 'worse')}", 0, "ValueError: worse"),
        (
            TRACEBACK + LOST,
            0,
            "ValueError: bad",
        ),  # of another rank, which lost this one
        ("x" * 2000, 0, "x" * 500),
        (TRACEBACK, len(TRACEBACK), ""),  # of an earlier attempt
    ],
)
def test_the_last_error_of_a_log(tmp_path, log, start, words):
    (tmp_path / "log.txt").write_text(log)
    assert last_error_line(tmp_path / "log.txt", start) == words


@pytest.mark.parametrize(
    ("status", "stop", "seconds"),
    [
        (0, None, HIDDEN_SECONDS),
        (ExitCode.USER_ERROR, None, HIDDEN_SECONDS),
        (1, None, 0.0),
        (ExitCode.CANCELLED, StopReason.PAUSE, 0.0),
        (0, StopReason.DETACHED, 0.0),
    ],
)
def test_a_file_of_another_machine_is_waited_for_where_the_status_promises_one(
    tmp_path, monkeypatch, status, stop, seconds
):
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    clock.sleep = lambda pause: setattr(clock, "now", clock.now + pause)
    monkeypatch.setattr(failure_table, "time", clock)
    await_outcome_file(RunDir(tmp_path), ProcessExit(status, stop, 0), lambda: None)
    assert clock.now == seconds


def test_the_wait_ends_with_the_file_or_with_the_lease(tmp_path, monkeypatch):
    def appear(_seconds):
        (tmp_path / "result.json").write_text("{}")

    monkeypatch.setattr(failure_table, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=appear))
    await_outcome_file(RunDir(tmp_path), ProcessExit(0, None, 0), lambda: None)
    (tmp_path / "result.json").unlink()

    def lost():
        raise StaleLease("run_1")

    with pytest.raises(StaleLease):
        await_outcome_file(RunDir(tmp_path), ProcessExit(0, None, 0), lost)


def traceback(*last):
    return "\n".join(("Traceback (most recent call last):", '  File "a.py", line 1, in f', "    f()", *last))


NCCL = traceback(
    "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:94, remote process exited",
    "ncclRemoteError: A call failed possibly due to a network error",
)
PORT = traceback("OSError: [Errno 98] Address already in use")
CHAINED = "\n\nThe above exception was the direct cause of the following exception:\n\n"
OURS = traceback("KeyError: 'image'")
WATCHDOG = (
    "[rank0]: Watchdog caught collective operation timeout: WorkNCCL(SeqNum=3)\n"
    "terminate called after throwing an instance of 'c10::DistBackendError'\n"
    "  what():  NCCL watchdog thread terminated with exception"
)


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        (NCCL, "nccl"),
        (WATCHDOG, "nccl"),
        (PORT + CHAINED + traceback("RuntimeError: cannot start the ranks"), "address_in_use"),
        (
            traceback('botocore.exceptions.EndpointConnectionError: Could not connect to "http://s3"'),
            "store_unreachable",
        ),
        (traceback("RuntimeError: CUDA error: uncorrectable ECC error encountered"), "gpu_fault"),
        (LOST, "network"),
        (f"{LOST}\n{PORT}", "address_in_use"),  # the network error follows
        (f"{OURS}\n{LOST}", None),
        (f"{NCCL}\n{OURS}", None),  # the other rank is the cause
        (f"warning: NCCL error ignored\n{OURS}", None),
        ("", None),
    ],
)
def test_the_cause_is_what_all_exceptions_have_in_common(log, cause):
    rule = infrastructure_cause(log.splitlines())
    assert (rule and rule.cause) == cause


@pytest.mark.parametrize(
    ("cause", "setbacks", "max_attempts", "exhausted", "delay"),
    [
        ("nccl", {}, 3, False, 10.0),
        ("nccl", {"nccl": 2}, 3, False, 40.0),
        ("nccl", {"nccl": INFRASTRUCTURE_RETRIES - 1, COUNTED: 99}, 3, False, LONGEST_DELAY_SECONDS),
        ("nccl", {"nccl": INFRASTRUCTURE_RETRIES}, 3, True, LONGEST_DELAY_SECONDS),
        ("killed", {COUNTED: 1}, 3, False, 0.0),
        ("killed", {COUNTED: 2}, 3, True, 0.0),
        ("hung", {}, 3, False, 0.0),
        ("hung", {"hung": 1, COUNTED: 1}, 30, True, 0.0),
        ("interrupted", {"interrupted": 1000, COUNTED: 2}, 1, False, 0.0),
        ("no_capacity", {"no_capacity": 1000, COUNTED: 5}, 1, False, 10.0),
    ],
)
def test_how_often_and_when_a_cause_is_tried_again(cause, setbacks, max_attempts, exhausted, delay):
    rule = RULES[cause]
    assert (rule.exhausted(setbacks, max_attempts), rule.delay_seconds(setbacks)) == (exhausted, delay)
