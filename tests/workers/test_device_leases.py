"""Real workers on a machine with GPUs: each job process sees the devices of its run, and no two runs share one."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lcl_core.db import runs
from lcl_core.db import submit as db_submit
from lcl_core.db.session import Database
from tests.fake_nvidia_smi import MIG_ID, gpu_id, install, listing
from tests.workers.worker_processes import WorkerProcesses

RunOf = Callable[[str], Any]
Eventually = Callable[..., None]
RUNS = 12


@pytest.fixture
def submit(database: Database) -> Callable[..., str]:
    """Queue a run that needs so many GPUs."""

    def queue(gpus: int = 1, **facts: Any) -> str:
        spec = {"steps": 1, "checkpoint_every": 1, "engine": {"processes": gpus}}
        with database.session() as session:
            return db_submit.submit(session, "pretrain", spec, gpus=gpus, **facts).id

    return queue


@pytest.fixture
def start(crew: WorkerProcesses, tmp_path: Path) -> Callable[..., Any]:
    """Start a worker on a machine of which ``nvidia-smi`` lists these devices."""
    locks = tmp_path / "locks"
    locks.mkdir()

    def begin(listed: str, slots: int = 8, **environment: str) -> Any:
        path = f"{install(tmp_path / 'programs', listed)}:{os.environ['PATH']}"
        shared = {"PATH": path, "TOY_MODULE": "device_run", "DEVICE_LOCKS": str(locks), "LCL_WORKER_SLOTS": str(slots)}
        return crew.start(**shared | environment)

    return begin


@pytest.fixture
def ended(database: Database, eventually: Eventually) -> Callable[..., list[Any]]:
    """Wait until the runs have ended; returns their rows."""

    def wait(ids: list[str], seconds: float = 180.0) -> list[Any]:
        def rows() -> list[Any]:
            with database.reading() as session:
                return [runs.get_run(session, run_id) for run_id in ids]

        eventually(lambda: all(run.finished_at is not None for run in rows()), "the end of the runs", seconds)
        return rows()

    return wait


def devices_of(run: Any) -> list[str]:
    return list(run.result["final"]["devices"])


def test_two_workers_of_one_machine_share_its_devices_and_pass_no_run_over(
    submit: Callable[..., str], start: Callable[..., Any], ended: Callable[..., list[Any]]
) -> None:
    """Runs of 1 to 8 GPUs in any order: each begins before those behind it, though they may need fewer devices."""
    chance = random.Random(3)
    needs = [chance.choice((1, 1, 2, 3, 4, 8)) for _ in range(RUNS)]
    ids = [submit(gpus) for gpus in needs]
    start(listing(8)), start(listing(8))
    rows = ended(ids, seconds=900.0)
    assert [(run.state, run.reason) for run in rows] == [("succeeded", None)] * RUNS
    assert [len(devices_of(run)) for run in rows] == needs
    starts = [run.started_at for run in rows]
    assert starts == sorted(starts)


def test_a_worker_gives_out_the_devices_of_its_own_environment(
    submit: Callable[..., str], start: Callable[..., Any], ended: Callable[..., list[Any]]
) -> None:
    start(listing(3, instances=[2]), CUDA_VISIBLE_DEVICES=f"{MIG_ID.format(1)},2")
    ids = [submit() for _ in range(4)]
    assert {device for run in ended(ids) for device in devices_of(run)} <= {MIG_ID.format(1), gpu_id(2)}


def test_devices_of_a_killed_worker_go_to_the_next_when_the_lease_has_expired(
    submit: Callable[..., str],
    start: Callable[..., Any],
    ended: Callable[..., list[Any]],
    run_of: RunOf,
    eventually: Eventually,
) -> None:
    first = submit(2)
    worker = start(listing(2), TOY_SECONDS="600")
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


def test_a_run_of_the_processor_sees_no_device(
    database: Database, start: Callable[..., Any], ended: Callable[..., list[Any]]
) -> None:
    with database.session() as session:
        run_id = db_submit.submit(session, "pretrain", {"steps": 1}, resource="cpu").id
    start(listing(1), TOY_MODULE="toy_run")
    assert ended([run_id])[0].result["final"]["environment"]["CUDA_VISIBLE_DEVICES"] == ""
