"""The wait of runs that a worker could claim: it counts exactly what a claim would find."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from lcl_core.db import leases
from lcl_core.db import queue as db_queue
from lcl_core.db.models import Run, Worker
from lcl_core.db.session import Database, now
from lcl_core.db.workers import WorkerIdentity, engine_device, lease_for_serving, record_heartbeat
from tests.fake_nvidia_smi import gpu_id
from tests.lcl_core.db.queued_runs import add_runs

Queue = Callable[..., str]
Claimed = leases.Claim | None
EIGHT = tuple(gpu_id(number) for number in range(8))
HOUR = 3600.0


@pytest.fixture
def alive(database: Database) -> Callable[..., None]:
    """Workers with heartbeats."""

    def register(*names: str, slots: int = 2, gpus: tuple[str, ...] = (), **more: Any) -> None:
        offers = more.pop("offers", ("cpu", "gpu") if gpus else ("cpu",))
        devices = more.pop("devices", ("a device",))
        with database.session() as session:
            for name in names:
                record_heartbeat(session, WorkerIdentity(name, "host", 1, slots, devices, offers, gpus, **more))

    return register


@pytest.fixture
def claim_on(database: Database) -> Callable[..., Claimed]:
    def claim(worker: str) -> Claimed:
        with database.session() as session:
            row = session.get_one(Worker, worker)
            return db_queue.claim_next(session, worker, 30.0, tuple(row.offers), devices=tuple(row.gpu_ids))

    return claim


@pytest.fixture
def waited(database: Database) -> Callable[[], float]:
    """After all queued runs have waited for an hour."""

    def read() -> float:
        with database.session() as session:
            since = now(session) - timedelta(seconds=HOUR)
            session.execute(update(Run).where(Run.state == "queued").values(ready_at=since))
        with database.reading() as session:
            return db_queue.longest_claimable_wait(session)

    return read


def large(queue: Queue, gpus: int, **more: Any) -> str:
    return queue(spec={"engine": {"processes": gpus}}, resource="gpu", **more)


def test_a_run_counts_while_a_live_worker_has_a_slot_for_it(
    database: Database, queue: Queue, alive: Any, waited: Any, claim_on: Any
) -> None:
    assert waited() == 0
    run_id = queue()
    assert waited() == 0, "no worker is alive"
    alive("w-1", slots=1)
    assert waited() == pytest.approx(HOUR, abs=300)
    assert claim_on("w-1").run_id == run_id
    assert waited() == 0
    queue()
    assert waited() == 0, "its slot is taken"
    queue(resource="gpu")
    alive("w-2")
    assert waited() > 0
    claim_on("w-2")
    assert (waited(), claim_on("w-2")) == (0, None), "nobody offers a GPU"
    queue()
    with database.session() as session:
        session.get_one(Worker, "w-2").seen_at -= timedelta(minutes=5)
    assert waited() == 0


def test_a_run_that_waits_for_gpus_does_not_count_while_slots_are_free(
    database: Database, queue: Queue, alive: Any, waited: Any, claim_on: Any
) -> None:
    alive("w-1", slots=4, gpus=EIGHT)
    large(queue, 8)
    assert waited() > 0
    first = claim_on("w-1")
    large(queue, 8)
    queue()
    assert (waited(), claim_on("w-1")) == (0, None)
    on_cpu = queue(resource="cpu")
    assert waited() > 0
    assert claim_on("w-1").run_id == on_cpu
    assert waited() == 0
    with database.session() as session:
        leases.release_lease(session, first)
    assert waited() > 0


def test_reserved_gpus_count_for_the_runs_that_may_have_them(
    queue: Queue, alive: Any, waited: Any, claim_on: Any
) -> None:
    alive("w-1", slots=4, gpus=EIGHT)
    queue(resource="gpu")
    claim_on("w-1")
    large(queue, 8)
    assert (waited(), claim_on("w-1")) == (0, None), "it has seven reserved"
    queue(resource="gpu")
    assert (waited(), claim_on("w-1")) == (0, None)
    urgent = queue(resource="gpu", priority=1)
    assert waited() > 0
    assert claim_on("w-1").run_id == urgent


def test_gpus_of_inference_do_not_count(database: Database, queue: Queue, alive: Any, waited: Any) -> None:
    alive("w-1", gpus=EIGHT[:1])
    queue(resource="gpu")
    assert waited() > 0
    with database.session() as session:
        lease_for_serving(session, EIGHT[0], 60.0)
    assert waited() == 0


def test_runs_that_only_an_engine_could_claim_do_not_count(queue: Queue, alive: Any, waited: Any) -> None:
    alive("ray", devices=(engine_device("ray"),), offers=("cpu", "gpu"))
    for resource in ("cpu", "gpu", None):
        queue(resource=resource)
    assert waited() == 0, "its cluster may be full"
    alive("w-1")
    assert waited() > 0


def test_what_must_not_start_yet_or_here_does_not_count(database: Database, queue: Queue, alive: Any) -> None:
    alive("w-1")
    run_id = queue()

    def waited(ready_in: float = -HOUR) -> float:
        with database.session() as session:
            session.get_one(Run, run_id).ready_at = now(session) + timedelta(seconds=ready_in)
        with database.reading() as session:
            return db_queue.longest_claimable_wait(session)

    assert waited() > 0
    assert waited(ready_in=HOUR) == 0, "it is tried again later"


def test_few_runs_of_a_long_queue_are_examined(
    database: Database, alive: Any, waited: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"id": f"run_{number:04}", "owner": "ada", "resource": "gpu", "after": number} for number in range(900)]
    add_runs(database, [*rows, {"id": "run_last", "owner": "bob", "resource": "cpu", "after": 901}])
    alive("w-1")
    examined = []
    can_start = db_queue._IdleWorkers.can_start

    def record(workers: Any, run: Run) -> bool:
        examined.append(run.id)
        return can_start(workers, run)

    monkeypatch.setattr(db_queue._IdleWorkers, "can_start", record)
    assert waited() > 0
    assert examined == ["run_0000", "run_last"]
