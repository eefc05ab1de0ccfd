"""Progress of an evaluation in the metrics file, and stops between its batches."""

import json

import pytest

from lcl_core.common.run_dir import JobCancelled, RunDir
from lcl_core.evaluation.evaluate import evaluate
from lcl_core.evaluation.tasks.base import EvalProgress
from lcl_core.evaluation.training import ImageBatches


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def lines(run_dir):
    return [json.loads(line) for line in run_dir.metrics_file.read_text().splitlines()]


def test_time_left_follows_the_tasks_done(tmp_path):
    run_dir, clock = RunDir(tmp_path), Clock()
    progress = EvalProgress(run_dir, clock)
    progress.enter("reading")
    clock.now += 100
    progress.start(4)
    clock.now += 10
    progress.task_done()
    for _ in range(100):
        clock.now += 0.01
        progress.heartbeat()
    first, *lines_of_beats = lines(run_dir)
    assert (first["step"], first["phase"], "seconds_left" in first) == (0, "reading", False)
    assert 2 <= len(lines_of_beats) <= 3, "small steps are not each a line"
    assert [lines_of_beats[0][name] for name in ("step", "total_steps")] == [1, 4]
    assert lines_of_beats[-1]["seconds_left"] == pytest.approx(3 * 11, abs=2)


def test_a_stop_request_is_honoured_between_steps(tmp_path):
    run_dir = RunDir(tmp_path)
    progress = EvalProgress(run_dir)
    progress.heartbeat()
    run_dir._stop.set()
    with pytest.raises(JobCancelled):
        progress.heartbeat()


@pytest.mark.parametrize(
    "task",
    [
        {"tasks": ["classification"]},
        {"tasks": ["tuned_retrieval"],
         "tuned_retrieval": {"epochs": 1, "batch_size": 20, "lr": 5e-3, "text_lr": 1e-3}},
    ],
    ids=lambda task: task["tasks"][0],
)  # fmt: skip
def test_a_stop_is_honoured_between_batches_of_tested_images(new_run, monkeypatch, task):
    run_dir = new_run(**task)
    test_batches = ImageBatches.test_batches

    def stopped(self, rows):
        self.batch_size = 4
        for patches in test_batches(self, rows):
            assert not run_dir.stop_requested, "another batch is encoded"
            run_dir._stop.set()
            yield patches

    monkeypatch.setattr(ImageBatches, "test_batches", stopped)
    with pytest.raises(JobCancelled):
        evaluate(run_dir)
