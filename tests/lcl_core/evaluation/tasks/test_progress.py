"""Progress of an evaluation in the metrics file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lcl_core.common.run_dir import JobCancelled, RunDir
from lcl_core.evaluation.tasks.base import EvalProgress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def lines(run_dir: RunDir) -> list[dict[str, object]]:
    return [json.loads(line) for line in run_dir.metrics_file.read_text().splitlines()]


def test_time_left_follows_the_work_done(tmp_path: Path) -> None:
    run_dir, clock = RunDir(tmp_path), Clock()
    progress = EvalProgress(run_dir, 40, clock)
    progress.enter("pictures")
    clock.now += 10
    progress.add(10)
    progress.finish()
    first, second, last = lines(run_dir)
    assert (first["step"], first["phase"], "seconds_left" in first) == (0, "pictures", False)
    assert (second["step"], second["total_steps"], second["seconds_left"]) == (10, 40, 30)
    assert (last["step"], last["phase"], last["seconds_left"]) == (40, "done", 0)


def test_before_the_work_is_known_there_are_lines_without_a_total(tmp_path: Path) -> None:
    run_dir, clock = RunDir(tmp_path), Clock()
    progress = EvalProgress(run_dir, clock=clock)
    progress.enter("reading")
    clock.now += 100
    progress.add(0)
    progress.start(40)
    progress.enter("pictures")
    clock.now += 10
    progress.add(10)
    reading, again, _, last = lines(run_dir)
    assert reading["phase"] == again["phase"] == "reading"
    assert "total_steps" not in again
    assert (last["step"], last["total_steps"], last["seconds_left"]) == (10, 40, 30)


def test_small_steps_are_not_each_a_line(tmp_path: Path) -> None:
    run_dir, clock = RunDir(tmp_path), Clock()
    progress = EvalProgress(run_dir, 1000, clock)
    progress.enter("probe")
    for _ in range(100):
        clock.now += 0.01
        progress.add(1)
    assert 2 <= len(lines(run_dir)) <= 4


def test_a_stop_request_is_honoured_between_steps(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    progress = EvalProgress(run_dir, 10)
    progress.add(1)
    run_dir._stop.set()
    with pytest.raises(JobCancelled):
        progress.add(1)
