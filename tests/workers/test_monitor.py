"""What a job reports: metrics.jsonl while it grows and when it is cut back, checkpoints, and the deadlines of a job."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import select

from lcl_core.common.run_dir import RunDir
from lcl_core.db import queue as db_queue
from lcl_core.db.leases import Claim, transition
from lcl_core.db.models import Run
from lcl_core.db.states import State
from lcl_core.parts import CompletionLog
from tests.workers.in_process_worker import attempt_at
from workers import lease_keeper
from workers import monitor as monitor_module
from workers.executors.base import Job
from workers.failure_table import StopReason
from workers.monitor import JobMonitor, MetricsTail, ProgressDeadline, newest_checkpoint

TIMEOUT, HUNG = 400.0, 100.0
CHECK_SECONDS = 5.0


class SilentJob(Job):
    """Makes no progress, and ends when it is stopped, or after ``checks``.

    Args:
        pauses: numbers of the checks during which the engine has suspended it.
    """

    log_start, identity = 0, {}  # type: ignore[assignment]

    def __init__(self, clock, checks, pauses):
        self._clock, self._checks, self._pauses = clock, checks, pauses
        self._number = 0

    @property
    def number(self):
        """Of the checks so far."""
        return self._number

    @property
    def log_file(self):
        return Path("log.txt")

    @property
    def is_paused(self):
        return self._number in self._pauses

    def wait(self, seconds):
        self._clock[0] += CHECK_SECONDS
        self._number += 1
        return 0 if self._number > self._checks else None

    def kill(self):
        self._checks = 0
        return -9

    def dump_stacks(self):
        return "no stacks"


@pytest.fixture
def clock(monkeypatch):
    moment = [1000.0]
    monkeypatch.setattr(lease_keeper.time, "monotonic", lambda: moment[0])
    return moment


@pytest.fixture
def monitor(database, settings, queue, run_dir):
    queue(spec={"timeout_seconds": TIMEOUT})
    with database.session() as session:
        claim = db_queue.claim_next(session, "worker", 60.0)
    assert isinstance(claim, Claim)
    run_dir.prepare({})
    settings.hung_seconds = HUNG
    lease = SimpleNamespace(
        check=lambda: None,
        protect=nullcontext,
        persist=lambda write: write(),
        ended_process=False,
    )

    def create(job):
        lease.end_process = lambda *_, **__: job.kill()
        return JobMonitor(replace(attempt_at(claim, database, settings, lease), run_dir=run_dir), job)

    return create


@pytest.mark.parametrize(
    ("hung_seconds", "pauses", "reason"),
    [
        (HUNG, range(0), StopReason.HUNG),
        (HUNG, range(10, 190), None),
        (HUNG, range(10, 100), StopReason.HUNG),
        (1e6, range(0), StopReason.TIMEOUT),
        (1e6, range(10, 190), None),
        (1e6, range(10, 20), StopReason.TIMEOUT),
    ],
)
def test_the_time_for_which_an_engine_suspends_a_job_counts_against_no_deadline(
    monitor, settings, clock, hung_seconds, pauses, reason
):
    """200 checks are 1,000 s."""
    settings.hung_seconds = hung_seconds
    exited = monitor(SilentJob(clock, 200, pauses)).until_exit()
    assert exited.stop_reason is reason


class TestLongHistory:
    """An attempt with many metric lines from before: 95 lines of which a transaction has 10."""

    @pytest.fixture(autouse=True)
    def parts(self, monkeypatch):
        """Number of lines in each transaction."""
        monkeypatch.setattr(monitor_module, "LINES_A_READ", 10)
        sizes: list[int] = []
        record = monitor_module.record_metrics

        def count(session, claim, lines, **more):
            sizes.append(len(lines))
            record(session, claim, lines, **more)

        monkeypatch.setattr(monitor_module, "record_metrics", count)
        return sizes

    @pytest.fixture
    def run_dir(self, run_dir):
        for step in range(1, 96):
            run_dir.append_metrics(step=step)
        return run_dir

    def test_all_lines_are_stored_in_parts(self, monitor, run_dir, clock, parts, steps_of, database):
        assert monitor(SilentJob(clock, 2, range(0))).until_exit().stop_reason is None
        with database.reading() as session:
            run_id, progress = session.execute(select(Run.id, Run.progress)).tuples().one()
        assert steps_of(run_id) == list(range(1, 96))
        assert progress is not None
        assert progress["step"] == 95
        assert max(parts) == 10

    def test_a_request_to_cancel_is_seen_between_two_parts(self, monitor, run_dir, clock, parts, database):
        job = SilentJob(clock, 200, range(0))
        watched = monitor(job)
        with database.session() as session:
            transition(session.scalars(select(Run)).one(), State.CANCELLING)
        assert watched.until_exit().stop_reason is StopReason.CANCEL
        assert job.number == 2, "at its first check"

    def test_the_next_attempt_drops_what_was_cut_off(self, monitor, run_dir, clock, steps_of, database):
        monitor(SilentJob(clock, 1, range(0))).until_exit()
        run_dir.truncate_metrics(82)
        with database.reading() as session:
            (run_id,) = session.scalars(select(Run.id)).all()
        monitor(SilentJob(clock, 1, range(0))).until_exit()
        assert steps_of(run_id) == list(range(1, 83))


@pytest.fixture
def run_dir(tmp_path):
    run_dir = RunDir(tmp_path / "run")
    run_dir.path.mkdir()
    return run_dir


@pytest.fixture
def steps(run_dir):
    """New steps, and whether they are the first of another file."""
    tail = MetricsTail(run_dir.metrics_file)

    def read():
        tail.read()
        found = [line["step"] for line in tail.lines], tail.rewound
        tail.clear()
        return found

    return read


def test_new_lines_come_once_also_after_the_file_was_cut_back(run_dir, steps):
    assert steps() == ([], False)
    run_dir.append_metrics(step=1)
    with run_dir.metrics_file.open("a") as file:
        file.write('{"st')
    assert steps() == ([1], True)
    assert steps() == ([], False)
    with run_dir.metrics_file.open("a") as file:
        file.write('ep": 2}\n')
    assert steps() == ([2], False)
    run_dir.truncate_metrics(1)
    assert steps() == ([1], True)
    run_dir.metrics_file.unlink()
    assert steps() == ([], False)
    run_dir.append_metrics(step=5)
    assert steps() == ([5], True)


def test_lines_that_are_no_metric_are_left_out(run_dir, steps):
    run_dir.metrics_file.write_bytes(
        b'nonsense\n[1]\n{"loss": 1}\n\n{"step": "x"}\n\xff\xfe\n{"step": 5}\n{"step": 1%s}\n' % (b"0" * 20)
    )
    assert steps() == ([5], True)


class TestProgressDeadline:
    """When a job counts as hung, by a clock that the test moves."""

    @pytest.fixture
    def run_dir(self, run_dir):
        run_dir.prepare({})
        run_dir.log_file.write_text("")
        return run_dir

    def silent_until_exceeded(self, clock, deadline, lines, run_dir, limit=100000.0):
        began = clock[0]
        while not deadline.exceeded and clock[0] < began + limit:
            clock[0] += 0.5
            deadline.observe(lines, run_dir)
        return clock[0] - began

    def test_the_floor_counts_for_quick_steps_and_the_pace_for_slow_ones(self, clock, run_dir):
        quick, slow = ProgressDeadline(60.0), ProgressDeadline(60.0)
        for deadline, seconds in ((quick, 0.5), (slow, 20.0)):
            for line in range(1, 6):
                for _ in range(int(seconds / 0.5)):
                    clock[0] += 0.5
                    deadline.observe(line - 1, run_dir)
                deadline.observe(line, run_dir)
        assert self.silent_until_exceeded(clock, quick, 5, run_dir) == pytest.approx(60.0, abs=6)
        assert self.silent_until_exceeded(clock, slow, 5, run_dir) == pytest.approx(400.0, abs=25)
        assert "after metric line 5" in slow.describe()

    def test_before_the_first_line_the_log_is_progress(self, clock, run_dir):
        deadline = ProgressDeadline(60.0)
        for _ in range(10):
            assert self.silent_until_exceeded(clock, deadline, 0, run_dir, limit=100.0) >= 100.0
            with run_dir.log_file.open("a") as log:
                log.write("reading the corpus\n")
            clock[0] += 6.0
            deadline.observe(0, run_dir)
        assert self.silent_until_exceeded(clock, deadline, 0, run_dir) == pytest.approx(120.0, abs=6)

    def test_a_checkpoint_is_progress(self, clock, run_dir):
        deadline = ProgressDeadline(60.0)
        deadline.observe(1, run_dir)
        self.silent_until_exceeded(clock, deadline, 1, run_dir, limit=50.0)
        (run_dir.checkpoints / "step_00000010").mkdir()
        clock[0] += 6.0
        deadline.observe(1, run_dir)
        assert self.silent_until_exceeded(clock, deadline, 1, run_dir, limit=50.0) >= 50.0

    def test_time_in_which_the_worker_was_away_is_not_counted(self, clock, run_dir):
        deadline = ProgressDeadline(60.0)
        deadline.observe(1, run_dir)
        clock[0] += 3600.0
        deadline.observe(1, run_dir)
        assert not deadline.exceeded


def test_the_newest_checkpoint_is_the_greatest_name(tmp_path):
    assert newest_checkpoint(tmp_path / "none") == ""
    for step in (90, 100):
        (tmp_path / f"step_{step:08d}").mkdir()
    (tmp_path / ".step_00000110.tmp").mkdir()
    assert newest_checkpoint(tmp_path) == "step_00000100"
    (tmp_path / "small").mkdir()
    state = tmp_path / "small" / "state.json"
    state.write_text("1")
    before = newest_checkpoint(state.parent)
    os.utime(state, ns=(state.stat().st_atime_ns, state.stat().st_mtime_ns + 1))
    assert newest_checkpoint(state.parent) > before


def test_a_completed_part_is_a_newer_checkpoint(tmp_path):
    """And nothing else that happens to the log, such as an attempt that begins anew and completes none."""
    folder = tmp_path / "parts"
    with CompletionLog(folder, "input") as log:
        log.append(kind="part", result={})
        first = newest_checkpoint(tmp_path)
        log.append(kind="part", result={})
        second = newest_checkpoint(tmp_path)
    assert "" < first < second
    with CompletionLog(folder, "input"):
        assert newest_checkpoint(tmp_path) == second
    with CompletionLog(folder, "other"):
        assert newest_checkpoint(tmp_path) < first
