"""Devices are leased with the run, to one run at a time, and a large run is not passed over for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lcl_core.db import complete_run, leases, runs
from lcl_core.db import queue as db_queue
from lcl_core.db.models import Run, Worker
from lcl_core.db.session import Database
from lcl_core.db.workers import (
    WorkerIdentity,
    capacity,
    device_uses,
    expire_serving_leases,
    has_expired_serving_leases,
    lease_for_serving,
    record_heartbeat,
)
from tests.fake_nvidia_smi import MIG_ID, gpu_id

Queue = Callable[..., str]
Claimed = leases.Claim | None
EIGHT = tuple(gpu_id(number) for number in range(8))
OTHER = tuple(gpu_id(number) for number in range(100, 108))


@pytest.fixture
def large(queue: Queue) -> Queue:
    """Submit a run that needs so many GPUs."""

    def submit(gpus: int, **facts: Any) -> str:
        engine = {"processes": gpus}
        return queue(spec={"engine": engine}, **{"resource": "gpu", **facts})

    return submit


@pytest.fixture
def claim_on(database: Database) -> Callable[..., Any]:
    """Claim for a worker with these devices, which is alive."""

    def take(devices: tuple[str, ...] = EIGHT, worker: str = "w-1", **more: Any) -> Claimed:
        offers = ("cpu", "gpu") if devices else ("cpu",)
        with database.session() as session:
            record_heartbeat(session, WorkerIdentity(worker, "host", 1, 8, devices or ("cpu",), offers, devices))
            session.flush()
            return db_queue.claim_next(session, worker, more.pop("seconds", 30.0), offers, devices=devices, **more)

    return take


@pytest.fixture
def end(database: Database, tmp_path: Path) -> Callable[[leases.Claim], None]:
    def finish(claim: leases.Claim) -> None:
        complete_run.complete_run(database, claim, complete_run.RunCancelled(), tmp_path, tmp_path, 1.0)

    return finish


@pytest.fixture
def free(database: Database) -> Callable[[tuple[str, ...]], list[str]]:
    def look(devices: tuple[str, ...] = EIGHT) -> list[str]:
        with database.reading() as session:
            used = {use.device for use in device_uses(session, devices)}
        return [device for device in devices if device not in used]

    return look


def test_each_run_gets_devices_of_its_own(large: Queue, claim_on: Callable[..., Any]) -> None:
    for _ in range(4):
        large(3)
    claims = [claim_on() for _ in range(3)]
    assert [claim and claim.devices for claim in claims] == [EIGHT[:3], EIGHT[3:6], None]


def test_a_run_of_any_device_gets_one_gpu_and_a_run_of_the_processor_none(
    queue: Queue, claim_on: Callable[..., Any]
) -> None:
    queue()
    queue(resource="cpu")
    assert [claim_on().devices for _ in range(2)] == [EIGHT[:1], ()]


def test_a_run_of_any_device_uses_the_processor_of_a_worker_without_gpus_only(
    large: Queue, claim_on: Callable[..., Any]
) -> None:
    large(4, resource=None)
    assert claim_on(EIGHT[:2]) is None, "two GPUs are too few for four processes"
    assert claim_on((), worker="w-2").devices == ()


def test_a_run_of_any_device_waits_for_a_busy_gpu(queue: Queue, claim_on: Callable[..., Any]) -> None:
    queue()
    queue()
    assert claim_on(EIGHT[:1]).devices == EIGHT[:1]
    assert claim_on(EIGHT[:1]) is None


def test_devices_are_free_when_the_run_ends(
    large: Queue,
    claim_on: Callable[..., Any],
    end: Callable[[leases.Claim], None],
    free: Callable[..., list[str]],
) -> None:
    large(8)
    claim = claim_on()
    assert free() == []
    end(claim)
    assert free() == list(EIGHT)


def test_devices_are_free_when_the_lease_is_released(
    database: Database, large: Queue, claim_on: Callable[..., Any], free: Callable[..., list[str]]
) -> None:
    large(8)
    claim = claim_on()
    with database.session() as session:
        leases.release_lease(session, claim)
    assert free() == list(EIGHT)


def test_devices_of_a_lost_worker_are_free_when_its_lease_has_expired(
    database: Database, large: Queue, claim_on: Callable[..., Any], free: Callable[..., list[str]]
) -> None:
    large(8)
    claim_on(seconds=-1.0)
    assert free() == [], "the worker may still be at work until somebody ends its lease"
    with database.session() as session:
        leases.expire_leases(session)
    assert free() == list(EIGHT)


def test_two_workers_of_one_machine_never_share_a_device(
    database: Database, large: Queue, claim_on: Callable[..., Any]
) -> None:
    """Sixteen threads of two workers claim at one time."""
    for _ in range(16):
        large(1)
    claim_on(worker="w-1"), claim_on(worker="w-2")
    barrier, claims = threading.Barrier(16), []

    def claim(worker: str) -> None:
        barrier.wait()
        with database.session() as session:
            claims.append(db_queue.claim_next(session, worker, 30.0, ("gpu",), devices=EIGHT))

    threads = [threading.Thread(target=claim, args=(f"w-{number % 2 + 1}",)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bound = [device for claim in claims if claim is not None for device in claim.devices]
    assert sorted(bound) == sorted(EIGHT[2:]), "each device once, two were taken before"


def test_a_stream_of_small_runs_does_not_keep_a_large_one_waiting(
    large: Queue, claim_on: Callable[..., Any], end: Callable[[leases.Claim], None]
) -> None:
    """A newcomer for each small run that ends."""
    for number in range(8):
        large(1, owner=f"small-{number}")
    at_work = [claim_on() for _ in range(8)]
    waiting = large(8, owner="patient")
    for number in range(8):
        large(1, owner=f"newcomer-{number}")
        end(at_work.pop(0))
        claim = claim_on()
        if claim is not None:
            at_work.append(claim)
    assert [claim.run_id for claim in at_work] == [waiting]


def test_a_reservation_outlives_owners_with_fewer_runs(
    large: Queue, claim_on: Callable[..., Any], end: Callable[[leases.Claim], None]
) -> None:
    """The owner of the large run has others at work elsewhere, so that newcomers would go before it."""
    large(1, owner="patient")
    claim_on(OTHER[:1], worker="w-2")
    large(7, owner="somebody")
    busy = claim_on()
    waiting = large(8, owner="patient")
    assert claim_on() is None
    large(1, owner="newcomer")
    assert claim_on() is None, "the free device is reserved"
    end(busy)
    assert claim_on().run_id == waiting


def test_a_large_run_is_reserved_on_one_worker_only(
    database: Database, large: Queue, claim_on: Callable[..., Any], end: Callable[[leases.Claim], None]
) -> None:
    large(1, owner="a"), large(1, owner="b")
    first, second = claim_on(), claim_on(OTHER, worker="w-2")
    waiting = large(8, owner="c")
    small = large(1, owner="d")
    assert claim_on() is None
    assert claim_on(OTHER, worker="w-2").run_id == small, "the second worker goes on"
    with database.reading() as session:
        reserved = [use for use in device_uses(session) if use.reserved]
    assert {use.run_id for use in reserved} == {waiting}
    assert sorted(use.device for use in reserved) == sorted(EIGHT[1:])
    end(first)
    assert claim_on().run_id == waiting
    assert second is not None


def test_a_worker_that_has_all_devices_takes_what_another_one_reserved(
    large: Queue, claim_on: Callable[..., Any], free: Callable[..., list[str]]
) -> None:
    large(1)
    claim_on()
    waiting = large(8)
    assert claim_on() is None
    assert claim_on(OTHER, worker="w-2").run_id == waiting
    assert free() == list(EIGHT[1:]), "nothing is reserved any more"


def test_a_reservation_ends_with_its_worker_and_with_its_run(
    database: Database, large: Queue, claim_on: Callable[..., Any], free: Callable[..., list[str]]
) -> None:
    large(1)
    claim_on()
    waiting = large(8)
    claim_on()
    assert free() == []
    with database.session() as session:
        session.get_one(Worker, "w-1").seen_at -= timedelta(minutes=5)
    assert free() == list(EIGHT[1:])
    claim_on()
    assert free() == []
    with database.session() as session:
        runs.cancel_run(session, waiting)
    assert free() == list(EIGHT[1:])


def test_a_higher_priority_takes_over_a_reservation(
    large: Queue, claim_on: Callable[..., Any], end: Callable[[leases.Claim], None]
) -> None:
    large(4)
    first = claim_on()
    later = large(8)
    assert claim_on() is None
    urgent, small = large(8, priority=1), large(1, priority=2)
    passing = claim_on()
    assert passing.run_id == small
    assert claim_on() is None
    end(first)
    assert claim_on() is None, "seven are free"
    end(passing)
    claim = claim_on()
    assert claim.run_id == urgent
    end(claim)
    assert claim_on().run_id == later


def test_reservations_of_workers_that_share_some_devices_do_not_block_each_other(
    database: Database, large: Queue, claim_on: Callable[..., Any], end: Callable[[leases.Claim], None]
) -> None:
    """Two workers with six devices each, two of which only they have; each reserves for another run at first."""
    left, right = EIGHT[:6], EIGHT[2:]
    large(6)
    busy = claim_on(left)
    older, younger = large(6), large(6)
    with database.session() as session:  # the older one is invisible for a moment, as a locked row is
        session.get_one(Run, older).state = "paused"
    assert claim_on(right, worker="w-2") is None
    with database.session() as session:
        session.get_one(Run, older).state = "queued"
    assert claim_on(left) is None
    end(busy)
    taken = [claim_on(left), claim_on(right, worker="w-2")]
    (claim,) = [claim for claim in taken if claim is not None]
    end(claim)
    again = [each for each in (claim_on(left), claim_on(right, worker="w-2")) if each is not None]
    assert {claim.run_id, *(each.run_id for each in again)} == {older, younger}


def test_runs_of_the_processor_pass_a_large_one_that_waits(
    queue: Queue, large: Queue, claim_on: Callable[..., Any]
) -> None:
    large(1)
    claim_on()
    large(8)
    passing = queue(resource="cpu")
    assert claim_on().run_id == passing


def test_an_instance_of_a_gpu_serves_runs_of_one_device(large: Queue, claim_on: Callable[..., Any]) -> None:
    instances = (MIG_ID.format(0), MIG_ID.format(1))
    assert [capacity(devices) for devices in ((), instances, (*instances, *EIGHT[:2]))] == [0, 1, 2]
    large(2)
    single = large(1)
    claim = claim_on(instances)
    assert (claim.run_id, claim.devices) == (single, instances[:1])
    assert claim_on(instances) is None
    assert claim_on((*instances, *EIGHT[:2]), worker="w-2").devices == EIGHT[:2]


def test_an_instance_is_given_out_while_gpus_are_reserved(large: Queue, claim_on: Callable[..., Any]) -> None:
    devices = (*EIGHT[:2], MIG_ID.format(0))
    large(1), large(2)
    claim_on(devices)
    assert claim_on(devices) is None
    large(1)
    assert claim_on(devices).devices == (MIG_ID.format(0),)


def test_a_device_that_serves_inference_goes_to_no_run(
    database: Database, large: Queue, claim_on: Callable[..., Any], end: Callable[[leases.Claim], None]
) -> None:
    first, waiting = large(8), large(8)
    claim = claim_on()
    with database.session() as session:
        assert lease_for_serving(session, EIGHT[0], 30.0) == first
    end(claim)
    with database.session() as session:
        assert lease_for_serving(session, EIGHT[0], 30.0) is None
    assert claim_on() is None
    with database.session() as session:
        lease_for_serving(session, EIGHT[0], -1.0)
    assert claim_on() is None, "its api may have been cut off from the database, as the workers were"
    with database.session() as session:
        assert expire_serving_leases(session) == [EIGHT[0]]
        assert not has_expired_serving_leases(session)
    assert claim_on().run_id == waiting
