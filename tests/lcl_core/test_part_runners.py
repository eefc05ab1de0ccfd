"""The pool: a process that is killed costs its own task, and errors arrive as they were raised."""

import errno
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from lcl_core.common.errors import UserError
from lcl_core.part_runners import PartTask, ProcessPoolRunner


class Sample:
    """Does what its argument says."""

    def __call__(self, arguments, report):
        report(arguments.get("items", 0))
        act, value = arguments["act"], arguments.get("value")
        if act == "user":
            raise UserError("it is bad", code="bad", field="f", file="x", line=3)
        if act == "disk":
            raise OSError(errno.ENOSPC, "full", "/x")
        if act == "bug":
            raise ValueError("a bug")
        if act == "die" or (act == "die once" and not Path(value).exists()):
            if act == "die once":
                Path(value).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"pid": os.getpid(), "value": value}


def nothing(items):
    pass


def run(tasks, processes=2):
    """Results by the order of the tasks."""
    waiting = [PartTask(task, f"task {number}") for number, task in enumerate(tasks)]
    results = {}
    labels = [task.label for task in waiting]
    with ProcessPoolRunner(processes, Sample) as pool:
        while len(results) < len(labels):
            while waiting and pool.idle:
                pool.submit(waiting.pop(0))
            results.update((task.label, result) for task, result in pool.wait(nothing))
        return [results[label] for label in labels]


def test_tasks_run_in_processes_of_their_own_and_deaths_cost_one_task(tmp_path):
    tasks = [{"act": "echo", "value": number} for number in range(8)]
    tasks[3] = {"act": "die once", "value": str(tmp_path / "died")}
    results = run(tasks)
    assert [result["value"] for result in results] == [0, 1, 2, str(tmp_path / "died"), 4, 5, 6, 7]
    assert os.getpid() not in {result["pid"] for result in results}


@pytest.mark.parametrize(
    ("act", "check"),
    [
        ("user", lambda error: (error.code, error.field, error.file, error.line) == ("bad", "f", "x", 3)),
        ("disk", lambda error: (error.errno, error.filename) == (errno.ENOSPC, "/x")),
        ("bug", lambda error: "ValueError: a bug" in str(error) and "task 0" in str(error)),
        ("die", lambda error: error.code == "part_failed" and "task 0" in error.message),
    ],
)
def test_errors_arrive_as_they_were_raised(act, check, monkeypatch):
    monkeypatch.setattr("lcl_core.part_runners.MAX_ATTEMPTS", 2)
    with pytest.raises((UserError, OSError, RuntimeError)) as caught:
        run([{"act": act}], processes=1)
    assert check(caught.value), caught.value


def test_an_idle_process_that_dies_is_replaced(eventually):
    with ProcessPoolRunner(1, Sample) as pool:
        (process,) = multiprocessing.active_children()
        process.kill()
        pool.submit(PartTask({"act": "echo", "value": 1}, "one"))
        found = []
        eventually(lambda: found.extend(pool.wait(nothing)) or found, "the result")
        assert found[0][1]["value"] == 1


def test_what_report_raises_ends_the_processes():
    def stop(items):
        raise KeyboardInterrupt

    processes = []

    def interrupted():
        with ProcessPoolRunner(2, Sample) as pool:
            processes.extend(multiprocessing.active_children())
            pool.submit(PartTask({"act": "echo"}, "one"))
            pool.wait(stop)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(processes) == 2
    assert multiprocessing.active_children() == []
