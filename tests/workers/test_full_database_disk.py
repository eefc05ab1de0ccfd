"""The disk of the embedded database is full: a worker says so, lives on, and goes on when there is room."""

from __future__ import annotations

import json

import pytest

from lcl_core.db.runs import list_workers
from tests.workers.conftest import HERE
from workers.settings import WorkerSettings

pytestmark = pytest.mark.extended


@pytest.fixture
def settings(small_disk):
    """Home and database lie on the small disk."""
    return WorkerSettings(home=small_disk.path, data_roots=[HERE], database_url=f"sqlite:///{small_disk.path}/lcl.db")


@pytest.mark.extended
def test_a_worker_outlives_a_full_disk(worker_processes, small_disk, database, queue, run_of, eventually):
    worker = worker_processes.start(LCL_LOG_FORMAT="json")

    def seen():
        with database.reading() as session:
            return bool(list_workers(session))

    def said():
        lines = worker_processes.log(0).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    eventually(seen, "the worker")
    small_disk.fill()
    eventually(lambda: [line for line in said() if line["event"] == "disk_full"], "the worker's word")
    line = next(line for line in said() if line["event"] == "disk_full")
    assert line["error"].startswith(f"no space left on the disk that holds {small_disk.path}/lcl.db")
    small_disk.make_room()
    run_id = queue()
    eventually(lambda: run_of(run_id).state == "succeeded", "a run")
    assert worker.poll() is None
    assert not [line for line in said() if "exception" in line], "nothing took it by surprise"
