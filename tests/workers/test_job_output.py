"""What a job reports: metrics.jsonl while it grows and when it is cut back, checkpoints, progress, stacks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from lcl_core.common.run_dir import RunDir
from lcl_core.parts import CompletionLog
from workers import job_output
from workers.job_output import MetricsTail, PendingMetrics, ProgressDeadline, dump_stacks, newest_checkpoint


@pytest.fixture
def run_dir(tmp_path):
    return RunDir(tmp_path)


@pytest.fixture
def tail(run_dir):
    tail = MetricsTail(run_dir.metrics_file)
    yield tail
    tail.close()


def steps(tail):
    lines, rewound = tail.read()
    return [line["step"] for line in lines], rewound


def test_new_lines_come_once(run_dir, tail):
    assert steps(tail) == ([], False)
    run_dir.append_metrics(step=1)
    assert steps(tail) == ([1], True)  # all that the file holds
    assert steps(tail) == ([], False)
    run_dir.append_metrics(step=2)
    run_dir.append_metrics(step=3)
    assert steps(tail) == ([2, 3], False)


def test_a_file_that_is_opened_anew_goes_on_where_it_was(run_dir, tail):
    tail.reopen()
    run_dir.append_metrics(step=1)
    with run_dir.metrics_file.open("a") as file:
        file.write('{"st')
    assert steps(tail) == ([1], True)
    with run_dir.metrics_file.open("a") as file:
        file.write('ep": 2}\n')
    tail.reopen()
    assert steps(tail) == ([2], False)
    run_dir.truncate_metrics(1)
    tail.reopen()
    assert steps(tail) == ([1], True)
    run_dir.metrics_file.unlink()
    tail.reopen()
    run_dir.append_metrics(step=5)
    assert steps(tail) == ([5], True)


def test_lines_that_are_no_metric_are_left_out(run_dir, tail):
    run_dir.metrics_file.write_bytes(
        b'nonsense\n[1]\n{"loss": 1}\n\n{"step": "x"}\n\xff\xfe\n{"step": 5}\n{"step": 1%s}\n' % (b"0" * 20)
    )
    assert steps(tail) == ([5], True)


class TestLongFile:
    """A file of many lines is read in parts."""

    @pytest.fixture
    def run_dir(self, run_dir):
        """With 35 lines."""
        for step in range(1, 36):
            run_dir.append_metrics(step=step)
        return run_dir

    def test_it_is_read_in_parts(self, run_dir, tail):
        parts = []
        while not parts or tail.more:
            lines, rewound = tail.read(15)
            parts.append(([line["step"] for line in lines], rewound))
            assert tail.last_step == 35
        assert parts == [([*range(1, 16)], True), ([*range(16, 31)], False), ([*range(31, 36)], False)]

    def test_what_waits_for_the_database_is_bounded(self, run_dir, tail, monkeypatch):
        monkeypatch.setattr(job_output, "LINES_A_READ", 20)
        unsaved = PendingMetrics()
        for _ in range(3):
            unsaved.read_from(tail)
        assert [line["step"] for line in unsaved.lines] == [*range(1, 21)]
        unsaved.clear()
        unsaved.read_from(tail)
        assert ([line["step"] for line in unsaved.lines], unsaved.rewound) == ([*range(21, 36)], False)


class TestProgressDeadline:
    """When a job counts as hung, by a clock that the test moves."""

    @pytest.fixture
    def clock(self, monkeypatch):
        moment = [1000.0]
        monkeypatch.setattr(job_output.time, "monotonic", lambda: moment[0])
        return moment

    @pytest.fixture
    def run_dir(self, tmp_path):
        run_dir = RunDir(tmp_path)
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


RANK = """
import subprocess, sys, time
from lcl_core.common.run_dir import RunDir

RunDir(sys.argv[1]).watch_signals()
if sys.argv[2] == "launcher":
    subprocess.Popen([sys.executable, "-c", sys.argv[3], sys.argv[1], "rank", ""], stdin=subprocess.PIPE)
print("ready", flush=True)
def waits_for_the_others():
    time.sleep(600)
waits_for_the_others()
"""


def test_all_processes_of_a_job_write_their_stacks(tmp_path, eventually):
    run_dir = RunDir(tmp_path)
    run_dir.prepare({})
    command = [sys.executable, "-c", RANK, str(tmp_path), "launcher", RANK]
    with (tmp_path / "log.txt").open("w") as log:
        job = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)
    try:
        eventually(lambda: (tmp_path / "log.txt").read_text().count("ready") == 2, "both processes")
        (run_dir.stacks / f"{os.getpid()}.txt").write_text("of another job")
        assert "2 of its processes" in dump_stacks(run_dir, job.pid)
        text = (run_dir.artifacts / "stacks.txt").read_text()
        assert text.count("in waits_for_the_others") == 2
        assert "of another job" not in text
        assert job.poll() is None, "the signal ends nobody"
    finally:
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
    assert dump_stacks(run_dir, job.pid) == "none of its processes wrote its stacks"


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
