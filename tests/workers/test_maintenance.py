"""Queue maintenance: wakes workers for waiting runs, requeues runs with an expired lease, sends heartbeats."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from sqlalchemy.exc import OperationalError

from lcl_core.db import queue as db_queue
from lcl_core.db import runs, studies
from lcl_core.db.session import now
from lcl_core.db.workers import PeriodicTask, WorkerIdentity
from workers import maintenance
from workers.maintenance import QueueMaintenance


class RecordedWakeups:
    """Records wake-ups and pings."""

    def __init__(self):
        self.woken: list[str] = []
        self.pings: list[str] = []

    def wake(self, run_id):
        self.woken.append(run_id)
        return True

    def wake_all(self, run_id):
        return self.wake(str(run_id))

    def ping(self, sender):
        self.pings.append(sender)
        return True


class CountedNotifications:
    """Counts notifications."""

    notified = 0

    def notify(self):
        self.notified += 1


@pytest.fixture
def wakeups():
    return RecordedWakeups()


@pytest.fixture
def claim_loop():
    return CountedNotifications()


@pytest.fixture
def queue_maintenance(database, wakeups, claim_loop, settings):
    return QueueMaintenance(database, wakeups, claim_loop, WorkerIdentity("worker-1", "host", 7, 1, ("cpu",)), settings)


def age(database, run_id):
    with database.session() as session:
        runs.get_run(session, run_id).ready_at = now(session) - timedelta(minutes=1)


def test_a_run_that_nobody_claimed_wakes_workers(queue_maintenance, wakeups, claim_loop, database, queue):
    waiting = queue()
    age(database, waiting)
    queue()  # has only just come: its own wake-up is on its way
    queue_maintenance.round()
    assert (wakeups.woken, claim_loop.notified) == ([waiting], 1)


@pytest.fixture
def clock(monkeypatch):
    """Move the boot clock ahead, and the wall clock with it or not."""
    ahead = {"boot": 0.0, "wall": 0.0}
    real_boot, real_wall = maintenance.boot_time, time.time
    monkeypatch.setattr(maintenance, "boot_time", lambda: real_boot() + ahead["boot"])
    monkeypatch.setattr(maintenance.time, "time", lambda: real_wall() + ahead["wall"])

    def advance(boot=0.0, wall=0.0):
        ahead["boot"] += boot
        ahead["wall"] += wall

    return advance


def pass_a_lease(clock, rounds):
    """Rounds every fifth of a lease."""
    for _ in range(6):
        clock(boot=4.0, wall=4.0)
        rounds()


@pytest.mark.parametrize("what", ["start", "outage", "suspension", "wall clock"])
def test_no_lease_runs_out_before_all_have_had_one_to_renew_it(
    clock, queue_maintenance, database, queue, run_of, monkeypatch, what
):
    if what != "start":
        pass_a_lease(clock, queue_maintenance.round)
    run_id = queue()
    with database.session() as session:
        db_queue.claim_next(session, "a worker that may renew it", lease_seconds=-1.0)
    if what == "outage":
        with monkeypatch.context() as patched:
            patched.setattr(queue_maintenance, "_heartbeat", away)
            with pytest.raises(OperationalError):
                queue_maintenance._heartbeat_and_round()
    elif what == "suspension":
        clock(boot=3600.0, wall=3600.0)
    elif what == "wall clock":
        clock(wall=3600.0)
    for _ in range(4):
        queue_maintenance.round()
        assert run_of(run_id).state == "running"
        clock(boot=4.0, wall=4.0)
    pass_a_lease(clock, queue_maintenance.round)
    assert run_of(run_id).state == "queued"


def away():
    raise OperationalError("heartbeat", None, ConnectionError("away"))


def test_what_a_study_needs_next_is_queued_and_workers_are_woken(
    queue_maintenance, wakeups, claim_loop, database, study
):
    study_id = study()
    with database.session() as session:
        run = runs.get_run(session, studies.study_cells(session, study_id)[0].run.id)
        run.state, run.encoder_id = "succeeded", "enc_1"
    queue_maintenance.round()
    queue_maintenance.round()
    with database.reading() as session:
        (evaluation,) = runs.list_runs(session, kind="evaluate").items
    assert (wakeups.woken, claim_loop.notified) == ([evaluation.id], 1)
    assert (evaluation.state, evaluation.spec["encoder"]) == ("queued", "enc_1")


def test_a_run_whose_predecessor_has_ended_is_let_go_or_ended(
    queue_maintenance, wakeups, claim_loop, database, queue, run_of
):
    good, bad = queue(), queue()
    after_good, after_bad = queue(after=[good]), queue(after=[bad])
    with database.session() as session:
        runs.get_run(session, good).state, runs.get_run(session, bad).state = "succeeded", "failed"
    queue_maintenance.round()
    assert (wakeups.woken, claim_loop.notified) == ([after_good], 1)
    assert (run_of(after_good).state, run_of(after_bad).state) == ("queued", "cancelled")


def test_a_failed_round_ends_no_periodic_task(eventually):
    rounds = iter([RuntimeError("a fault of ours"), True, None])
    done: list[object] = []

    def work():
        done.append(result := next(rounds, None))
        if isinstance(result, Exception):
            raise result
        return result

    task = PeriodicTask("test", work, 0.01)
    task.start()
    eventually(lambda: len(done) >= 4, "a fourth round")
    task.stop()
    assert done[1] is True
