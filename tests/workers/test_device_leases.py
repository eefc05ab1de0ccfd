"""Real workers on a machine with GPUs: each job process sees the devices of its run, and no two runs share one."""

from __future__ import annotations

import os
import random
import threading
import time
from dataclasses import dataclass, field

import pytest
from sqlalchemy import update

from lcl_core.common.gpus import VISIBLE_DEVICES
from lcl_core.db import runs
from lcl_core.db import submit as db_submit
from lcl_core.db.complete_run import RunCancelled, complete_run
from lcl_core.db.models import Worker
from lcl_core.db.runs import count_runs_by_state
from lcl_core.db.session import now
from lcl_core.db.workers import WorkerIdentity, record_heartbeat
from tests.fake_nvidia_smi import MIG_ID, gpu_id, install, listing
from workers.claim_loop import ClaimLoop

pytestmark = [pytest.mark.local_executor, pytest.mark.extended]


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


@dataclass
class SharedDevices:
    """What runs do with devices: each use is recorded, and a second one at the same time is a failure."""

    order: list[str] = field(default_factory=list)
    in_use: set[str] = field(default_factory=set)
    shared: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, claim):
        with self.lock:
            self.order.append(claim.run_id)
            self.shared += [device for device in claim.devices if device in self.in_use]
            self.in_use.update(claim.devices)

    def end(self, claim):
        with self.lock:
            self.in_use.difference_update(claim.devices)


def test_two_hundred_runs_share_eight_devices_and_none_is_passed_over(database, submit, eventually, tmp_path):
    """Two workers of one machine, and runs of 1 to 8 GPUs in any order, each as long as chance has it."""
    chance = random.Random(3)
    needs = [chance.choice((1, 1, 2, 3, 4, 8)) for _ in range(200)]
    ids = [submit(gpus) for gpus in needs]
    devices, used, seen = tuple(map(gpu_id, range(8))), SharedDevices(), dict[str, int]()

    def work(claim, stopping):
        used.begin(claim)
        seen[claim.run_id] = len(claim.devices)
        time.sleep(chance.random() / 50)
        used.end(claim)
        complete_run(database, claim, RunCancelled(), tmp_path / claim.run_id, tmp_path, 0.0)

    loops = []
    for name in ("a", "b"):
        identity = WorkerIdentity(name, "host", 1, 8, ("GPU",) * 8, ("cpu", "gpu"), devices)
        with database.session() as session:
            record_heartbeat(session, identity)
        loops.append(ClaimLoop(identity, database, 600.0, work))

    def finished():
        for loop in loops:
            loop.notify()
        with database.session() as session:
            session.execute(update(Worker).values(seen_at=now(session)))
            return count_runs_by_state(session)["cancelled"] == len(ids)

    try:
        eventually(finished, "the end of all runs", 600.0)
    finally:
        for loop in loops:
            loop.stop()
            loop.join()
    assert used.shared == []
    assert [seen[run_id] for run_id in ids] == needs
    with database.reading() as session:
        starts = [runs.get_run(session, run_id).started_at for run_id in ids]
    assert starts == sorted(starts), "each begins before those behind it, though they may need fewer devices"


def test_processes_of_two_workers_share_no_device(submit, start, ended):
    needs = [1, 3, 8, 2, 1, 4, 4, 1, 8, 2, 6, 1]
    ids = [submit(gpus) for gpus in needs]
    start(listing(8)), start(listing(8))
    rows = ended(ids, seconds=600.0)
    assert [(run.state, run.reason) for run in rows] == [("succeeded", None)] * len(needs)
    assert [len(devices_of(run)) for run in rows] == needs


def test_a_worker_gives_out_the_devices_of_its_own_environment(submit, start, ended):
    start(listing(3, instances=[2]), CUDA_VISIBLE_DEVICES=f"{MIG_ID.format(1)},2")
    ids = [submit() for _ in range(4)]
    assert {device for run in ended(ids) for device in devices_of(run)} <= {MIG_ID.format(1), gpu_id(2)}


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


def test_a_run_of_the_processor_sees_no_device(database, start, ended):
    with database.session() as session:
        run_id = db_submit.submit(session, "pretrain", {"steps": 1}, resource="cpu").id
    start(listing(1), TOY_MODULE="toy_run")
    assert ended([run_id])[0].result["final"]["environment"]["CUDA_VISIBLE_DEVICES"] == ""
