"""A disk that is full or read-only: the run says so, nothing is lost, and it goes on once there is room."""

from __future__ import annotations

from pathlib import Path

import pytest

from lcl_core.db import runs


@pytest.fixture
def on_small_disk(in_process_worker, small_disk):
    """The folder of all runs lies there; the database does not."""
    in_process_worker.settings.home.mkdir(exist_ok=True)
    in_process_worker.settings.runs_dir.symlink_to(small_disk.path)
    return small_disk


def resume(database, run_id):
    with database.session() as session:
        runs.resume_run(session, run_id)


def test_a_disk_that_fills_up_in_the_middle(
    in_process_worker, database, on_small_disk, queue, run_of, steps_of, eventually, monkeypatch
):
    monkeypatch.setenv("LCL_TOY_SECONDS", "0.05")
    run_id = queue(steps=60)
    in_process_worker.start()
    eventually(lambda: len(steps_of(run_id)) > 6, "the first checkpoint")
    on_small_disk.fill()
    in_process_worker.join()
    run = run_of(run_id)
    assert (run.state, run.reason["code"]) == ("failed", "disk_full")
    assert "make room there, then resume the run" in run.reason["message"]
    assert run_id in run.reason["message"]
    resume(database, run_id)
    in_process_worker.work()
    assert run_of(run_id).reason["code"] == "disk_full", "it is still full"
    on_small_disk.make_room()
    resume(database, run_id)
    in_process_worker.work()
    run = run_of(run_id)
    assert (run.state, run.reason) == ("succeeded", None)
    assert run.result["final"]["start"] >= 5
    assert steps_of(run_id) == list(range(1, 61))


def test_no_room_for_the_encoder_keeps_the_work(in_process_worker, database, queue, run_of, small_disk):
    """Its folder of encoders is the one that is full."""
    in_process_worker.settings.home.mkdir(exist_ok=True)
    Path(in_process_worker.settings.encoders_dir).symlink_to(small_disk.path)
    small_disk.fill()
    run_id = queue(steps=5)
    in_process_worker.work()
    assert (run_of(run_id).state, run_of(run_id).reason["code"]) == ("failed", "disk_full")
    small_disk.make_room()
    resume(database, run_id)
    in_process_worker.work()
    run = run_of(run_id)
    assert (run.state, run.result["final"]["start"]) == ("succeeded", 5)
