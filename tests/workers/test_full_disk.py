"""A disk that is full or read-only: the run says so, nothing is lost, and it goes on once there is room."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lcl_core.common.run_dir import RunDir
from lcl_core.db import runs
from lcl_core.db.session import Database
from tests.workers.in_process_worker import InProcessWorker

Queue = Callable[..., str]
RunOf = Callable[[str], Any]
Steps = Callable[[str], list[int]]


@pytest.fixture
def on_small_disk(in_process_worker: InProcessWorker, small_disk: Any) -> Any:
    """The folder of all runs lies there; the database does not."""
    in_process_worker.settings.home.mkdir(exist_ok=True)
    in_process_worker.settings.runs_dir.symlink_to(small_disk.path)
    return small_disk


def resume(database: Database, run_id: str) -> None:
    with database.session() as session:
        runs.resume_run(session, run_id)


def test_a_disk_that_fills_up_in_the_middle(
    in_process_worker: InProcessWorker,
    database: Database,
    on_small_disk: Any,
    queue: Queue,
    run_of: RunOf,
    steps_of: Steps,
    eventually: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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


def test_a_folder_that_is_read_only(
    in_process_worker: InProcessWorker, database: Database, on_small_disk: Any, queue: Queue, run_of: RunOf
) -> None:
    run_id = queue()
    on_small_disk.make_writable(False)
    in_process_worker.work()
    run = run_of(run_id)
    assert (run.state, run.reason["code"]) == ("failed", "read_only")
    assert "make it writable, then resume the run" in run.reason["message"]
    on_small_disk.make_writable(True)
    resume(database, run_id)
    in_process_worker.work()
    assert run_of(run_id).state == "succeeded"


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, "disk_full"), (errno.EROFS, "read_only"), (errno.EIO, "storage")]
)
def test_what_the_worker_itself_cannot_write(
    in_process_worker: InProcessWorker,
    queue: Queue,
    run_of: RunOf,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    code: str,
) -> None:
    def refuse(run_dir: RunDir, run: dict[str, Any]) -> None:
        raise OSError(number, os.strerror(number), str(run_dir.run_file))

    monkeypatch.setattr(RunDir, "prepare", refuse)
    run_id = queue()
    in_process_worker.work()
    run = run_of(run_id)
    assert (run.state, run.reason["code"]) == ("failed", code)
    assert "run.json" in run.reason["message"]


def test_no_room_for_the_encoder_keeps_the_work(
    in_process_worker: InProcessWorker, database: Database, queue: Queue, run_of: RunOf, small_disk: Any
) -> None:
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
