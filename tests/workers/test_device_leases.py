"""Real workers on a machine with GPUs: each job process sees the devices of its run, and no two runs share one."""

from __future__ import annotations

import os

import pytest

from lcl_core.common.gpus import VISIBLE_DEVICES
from lcl_core.db import runs
from lcl_core.db import submit as db_submit
from tests.fake_nvidia_smi import gpu_id, install, listing

pytestmark = pytest.mark.extended


@pytest.fixture
def submit(database):
    """Queue a run that needs so many GPUs."""

    def queue(gpus=1, **facts):
        spec = {"steps": 1, "checkpoint_every": 1, "engine": {"processes": gpus}}
        with database.session() as session:
            return db_submit.submit(session, "pretrain", spec, gpus=gpus, **facts).id

    return queue


@pytest.fixture
def start(worker_processes, tmp_path, monkeypatch):
    """Start a worker on a machine of which ``nvidia-smi`` lists these devices, all of which it sees."""
    monkeypatch.delenv(VISIBLE_DEVICES, raising=False)
    locks = tmp_path / "locks"
    locks.mkdir()

    def begin(listed, slots=8, **environment):
        path = f"{install(tmp_path / 'programs', listed)}:{os.environ['PATH']}"
        shared = {"PATH": path, "TOY_MODULE": "device_run", "DEVICE_LOCKS": str(locks), "LCL_WORKER_SLOTS": str(slots)}
        shared["LCL_LEASE_SECONDS"] = "60"  # a busy machine must not cost a run its worker
        return worker_processes.start(**shared | environment)

    return begin


@pytest.fixture
def ended(database, eventually):
    """Wait until the runs have ended; returns their rows."""

    def wait(ids, seconds=180.0):
        def rows():
            with database.reading() as session:
                return [runs.get_run(session, run_id) for run_id in ids]

        eventually(lambda: all(run.finished_at is not None for run in rows()), "the end of the runs", seconds)
        return rows()

    return wait


def devices_of(run):
    return list(run.result["final"]["devices"])


def test_processes_of_two_workers_share_no_device(submit, start, ended):
    needs = [1, 3, 8, 2, 1, 4, 4, 1, 8, 2, 6, 1]
    ids = [submit(gpus) for gpus in needs]
    start(listing(8)), start(listing(8))
    rows = ended(ids, seconds=600.0)
    assert [(run.state, run.reason) for run in rows] == [("succeeded", None)] * len(needs)
    assert [len(devices_of(run)) for run in rows] == needs


def test_devices_of_a_killed_worker_go_to_the_next_when_the_lease_has_expired(submit, start, ended, run_of, eventually):
    first = submit(2)
    worker = start(listing(2), LCL_TOY_SECONDS="600", LCL_LEASE_SECONDS="5")
    eventually(lambda: run_of(first).progress is not None)
    worker.kill()
    worker.wait()
    start(listing(2))
    behind = submit(2)
    rows = ended([first, behind])
    assert [(run.state, run.attempt, devices_of(run)) for run in rows] == [
        ("succeeded", 2, [gpu_id(0), gpu_id(1)]),
        ("succeeded", 1, [gpu_id(0), gpu_id(1)]),
    ]
