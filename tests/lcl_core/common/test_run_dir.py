"""The run directory: how a process tells its supervisor what happened."""

import json
import os
import signal
from itertools import pairwise

import pytest

from lcl_core.common import run_dir as run_dir_module
from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import ExitCode, JobCancelled, JobProgress, RunDir, run_main


@pytest.fixture
def run_dir(tmp_path):
    made = RunDir(tmp_path / "run_1")
    made.path.mkdir()
    made.prepare({"run_id": "run_1"})
    return made


@pytest.fixture(autouse=True)
def _signals():
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def failing(error):
    def work(_):
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("the corpus is empty", field="data"), ExitCode.USER_ERROR),
        (JobCancelled(), ExitCode.CANCELLED),
        (MemoryError(), ExitCode.OUT_OF_MEMORY),
        (RuntimeError("CUDA out of memory. Tried to allocate"), ExitCode.OUT_OF_MEMORY),
        (ZeroDivisionError(), ExitCode.CRASH),
    ],
)
def test_every_end_has_its_exit_status(run_dir, error, code):
    assert run_main(failing(error), [str(run_dir.path)]) == code
    assert not run_dir.result_file.exists()
    assert run_dir.error_file.exists() == (code == ExitCode.USER_ERROR)


def test_a_new_attempt_forgets_the_old_conclusion(run_dir):
    run_main(failing(UserError("no")), [str(run_dir.path)])
    run_dir.prepare({"run_id": "run_1", "attempt": 2})
    assert not run_dir.error_file.exists()
    assert run_dir.read_run()["attempt"] == 2


def test_two_processes_never_share_a_directory(run_dir):
    run_dir.lock()
    with pytest.raises(UserError, match="another process"):
        RunDir(run_dir.path).lock()


def test_truncating_metrics_drops_later_and_torn_lines(run_dir):
    for step in (1, 2, 3):
        run_dir.append_metrics(step=step)
    with run_dir.metrics_file.open("a") as file:
        file.write('{"step": 2, "lo')
    run_dir.truncate_metrics(2)
    assert [json.loads(line)["step"] for line in run_dir.metrics_file.read_text().splitlines()] == [1, 2]


def test_a_job_that_does_not_advance_writes_no_further_line(run_dir):
    """Each line counts as progress."""
    progress = JobProgress(run_dir, "converting", every=0.0)
    for done, total in [(3, 10), (3, 10), (4, 10), (4, 12), (4, 12), (12, 12), (12, 12)]:
        progress(done, total)
    lines = [json.loads(line) for line in run_dir.metrics_file.read_text().splitlines()]
    assert [(line["step"], line["total_steps"]) for line in lines] == [(3, 10), (4, 10), (4, 12), (12, 12)]
    run_dir._stop.set()
    with pytest.raises(JobCancelled):
        progress(12, 12)


def test_earlier_phases_tell_nothing_of_the_pace(run_dir, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(run_dir_module.time, "monotonic", lambda: clock[0])
    progress = JobProgress(run_dir, "images", "images", start=50)
    clock[0] += 2
    progress(54, 61)
    line = json.loads(run_dir.metrics_file.read_text())
    assert [line[name] for name in ("total_steps", "seconds_left", "images_per_s")] == [61, 3.5, 2.0]


def test_a_long_job_writes_lines_less_often(run_dir, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(run_dir_module.time, "monotonic", lambda: clock[0])
    written: list[float] = []
    monkeypatch.setattr(run_dir, "append_metrics", lambda **_: written.append(clock[0]))
    progress = JobProgress(run_dir, "converting")
    for until, tick in ((1900.0, 0.25), (1000.0 + 14 * 86_400.0, 10.0)):
        while clock[0] < until:
            clock[0] += tick
            progress(int(4 * clock[0]), None)
    assert sum(moment < 1900.0 for moment in written) == 1800, "twice a second for a quarter of an hour"
    assert max(after - before for before, after in pairwise(written)) == 30.0
    assert len(written) < 50_000


def test_sigterm_becomes_a_request(run_dir):
    def work(run):
        os.kill(os.getpid(), signal.SIGTERM)
        run.raise_if_stopped()
        return {}

    assert run_main(work, [str(run_dir.path)]) == ExitCode.CANCELLED
