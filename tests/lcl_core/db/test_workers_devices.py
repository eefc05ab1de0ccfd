"""Devices are leased with the run, to one run at a time, and a large run is not passed over for ever."""

import threading

import pytest

from lcl_core.db import complete_run, leases
from lcl_core.db import queue as db_queue
from lcl_core.db.workers import (
    WorkerIdentity,
    capacity,
    expire_serving_leases,
    has_expired_serving_leases,
    lease_for_serving,
    leased_devices,
    record_heartbeat,
)
from tests.fake_nvidia_smi import MIG_ID, gpu_id

EIGHT = tuple(gpu_id(number) for number in range(8))
OTHER = tuple(gpu_id(number) for number in range(100, 108))


@pytest.fixture
def large(queue):
    """Submit a run that needs so many GPUs."""

    def submit(gpus, **facts):
        return queue(spec={"engine": {"processes": gpus}}, **{"resource": "gpu", **facts})

    return submit


@pytest.fixture
def claim_on(database):
    """Claim for a worker with these devices, which is alive."""

    def take(devices=EIGHT, worker="w-1", seconds=30.0):
        offers = ("cpu", "gpu") if devices else ("cpu",)
        with database.session() as session:
            record_heartbeat(session, WorkerIdentity(worker, "host", 1, 8, devices or ("cpu",), offers, devices))
            session.flush()
            return db_queue.claim_next(session, worker, seconds, offers, devices=devices)

    return take


@pytest.fixture
def end(database, tmp_path):
    def finish(claim):
        complete_run.complete_run(database, claim, complete_run.RunCancelled(), tmp_path, tmp_path, 1.0)

    return finish


@pytest.fixture
def free(database):
    def look():
        with database.reading() as session:
            leased = leased_devices(session, EIGHT)
        return [device for device in EIGHT if device not in leased]

    return look


def test_each_run_gets_devices_of_its_own(large, claim_on):
    for _ in range(4):
        large(3)
    assert [claim and claim.devices for claim in (claim_on(), claim_on(), claim_on())] == [EIGHT[:3], EIGHT[3:6], None]


def test_what_a_run_gets_depends_on_its_resource(queue, large, claim_on):
    queue()
    queue(resource="cpu")
    assert [claim_on(EIGHT[:1]).devices for _ in range(2)] == [EIGHT[:1], ()]
    queue()
    assert claim_on(EIGHT[:1]) is None, "it waits for the busy GPU"
    assert claim_on((), worker="w-2").devices == (), "a worker without GPUs runs it on the CPU"
    large(4, resource=None)
    assert claim_on(OTHER[:2], worker="w-3") is None, "two GPUs are too few for four processes"


@pytest.mark.parametrize("how", ["ended", "released", "lost"])
def test_devices_are_free_when_the_lease_ends(database, large, claim_on, end, free, how):
    large(8)
    claim = claim_on(seconds=-1.0 if how == "lost" else 30.0)
    assert free() == []
    with database.session() as session:
        if how == "released":
            leases.release_lease(session, claim)
        elif how == "lost":
            leases.expire_leases(session)
    if how == "ended":
        end(claim)
    assert free() == list(EIGHT)


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_two_workers_of_one_machine_never_share_a_device(database, large, claim_on):
    """Sixteen threads of two workers claim at one time."""
    for _ in range(16):
        large(1)
    claim_on(worker="w-1"), claim_on(worker="w-2")
    barrier, claims = threading.Barrier(16), []

    def claim(worker):
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


def test_a_stream_of_small_runs_does_not_keep_a_large_one_waiting(large, claim_on, end):
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


def test_a_large_run_reserves_one_worker_and_goes_where_all_devices_are_free(large, claim_on, end):
    large(1, owner="a"), large(1, owner="b")
    first = claim_on()
    claim_on(OTHER, worker="w-2")
    waiting, small = large(8, owner="c"), large(1, owner="d")
    assert claim_on() is None
    assert claim_on(OTHER, worker="w-2").run_id == small, "the second worker goes on"
    assert claim_on(EIGHT[:4] + OTHER[:4], worker="w-3") is None, "some of these are in use"
    third = tuple(gpu_id(number) for number in range(200, 208))
    assert claim_on(third, worker="w-3").run_id == waiting
    large(1, owner="e")
    assert claim_on() is not None, "nothing reserves the first worker any more"
    assert first is not None


def test_an_instance_of_a_gpu_serves_runs_of_one_device(large, claim_on):
    instances = (MIG_ID.format(0), MIG_ID.format(1))
    assert [capacity(devices) for devices in ((), instances, (*instances, *EIGHT[:2]))] == [0, 1, 2]
    large(2)
    single = large(1)
    claim = claim_on(instances)
    assert (claim.run_id, claim.devices) == (single, instances[:1])
    assert claim_on((*instances, *EIGHT[:2]), worker="w-2").devices == EIGHT[:2]


def test_a_device_that_serves_inference_goes_to_no_run(database, large, claim_on, end):
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
