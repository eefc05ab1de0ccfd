"""Slots: never more runs at a time than there are, never a ring unheard."""

from __future__ import annotations

import threading

import pytest

from lcl_core.db import leases
from lcl_core.db import runs as db_runs
from lcl_core.db.workers import WorkerIdentity
from workers.claim_loop import ClaimLoop


class Work:
    """Stands at each claimed run until it is let go, then settles it."""

    def __init__(self, database):
        self._database = database
        self._lock = threading.Lock()
        self._go = threading.Semaphore(0)
        self.now: set[str] = set()
        self.done: list[str] = []
        self.most = 0

    def __call__(self, claim, stopping):
        with self._lock:
            self.now.add(claim.run_id)
            self.most = max(self.most, len(self.now))
        while not self._go.acquire(timeout=0.01) and not stopping.is_set():
            pass
        with self._database.session() as session:
            leases.release_lease(session, claim) if stopping.is_set() else None
        with self._lock:
            self.now.discard(claim.run_id)
            self.done.append(claim.run_id)

    def let_go(self, count):
        self._go.release(count)


def worker(slots, offers=("cpu",)):
    return WorkerIdentity("worker-1", "host", 1, slots, ("cpu",), offers)


@pytest.fixture
def work(database):
    return Work(database)


@pytest.fixture
def slots(database, work):
    slots = ClaimLoop(worker(2), database, 30.0, work)
    yield slots
    slots.stop()
    slots.join()


def test_one_ring_fills_all_slots_and_drains_the_queue(slots, work, queue, eventually):
    runs = [queue() for _ in range(5)]
    slots.notify()
    eventually(lambda: work.now == set(runs[:2]))
    slots.notify()
    work.let_go(5)
    eventually(lambda: len(work.done) == 5)
    assert sorted(work.done) == sorted(runs)
    assert work.most == 2


def test_a_ring_in_vain_costs_nothing_and_the_next_one_is_heard(slots, work, queue, eventually):
    for _ in range(20):
        slots.notify()
    slots.join()
    run_id = queue()
    slots.notify()
    work.let_go(1)
    eventually(lambda: work.done == [run_id])


def test_a_stopped_worker_hands_back_and_claims_nothing_more(slots, work, queue, database, eventually):
    for _ in range(3):
        queue()
    slots.notify()
    eventually(lambda: len(work.now) == 2)
    slots.stop()
    slots.join()
    slots.notify()
    with database.reading() as session:
        assert db_runs.count_runs_by_state(session)["queued"] == 3


def test_a_fault_of_the_supervisor_does_not_cost_the_slot(database, queue, eventually):
    seen: list[str] = []

    def fail(claim, stopping):
        seen.append(claim.run_id)
        raise ZeroDivisionError

    slots = ClaimLoop(worker(1), database, 30.0, fail)
    runs = [queue(), queue()]
    slots.notify()
    eventually(lambda: seen == runs)
    slots.join()
