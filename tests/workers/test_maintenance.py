"""Queue maintenance: wakes workers for waiting runs, requeues runs with an expired lease, sends heartbeats."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from lcl_core.db import queue as db_queue
from lcl_core.db import runs, studies
from lcl_core.db.session import Database, now
from lcl_core.db.workers import PeriodicTask, WorkerIdentity
from workers import maintenance
from workers.maintenance import QueueMaintenance
from workers.settings import WorkerSettings


class RecordedWakeups:
    """Records wake-ups and pings."""

    def __init__(self) -> None:
        self.woken: list[str] = []
        self.pings: list[str] = []

    def wake(self, run_id: str) -> bool:
        self.woken.append(run_id)
        return True

    def wake_all(self, run_id: str | None) -> bool:
        return self.wake(str(run_id))

    def ping(self, sender: str) -> bool:
        self.pings.append(sender)
        return True


class CountedNotifications:
    """Counts notifications."""

    notified = 0

    def notify(self) -> None:
        self.notified += 1


@pytest.fixture
def wakeups() -> RecordedWakeups:
    return RecordedWakeups()


@pytest.fixture
def claim_loop() -> CountedNotifications:
    return CountedNotifications()


@pytest.fixture
def queue_maintenance(database: Database, wakeups: Any, claim_loop: Any, settings: WorkerSettings) -> QueueMaintenance:
    return QueueMaintenance(database, wakeups, claim_loop, WorkerIdentity("worker-1", "host", 7, 1, ("cpu",)), settings)


def age(database: Database, run_id: str) -> None:
    with database.session() as session:
        runs.get_run(session, run_id).ready_at = now(session) - timedelta(minutes=1)


def test_a_run_that_nobody_claimed_wakes_workers(
    queue_maintenance: QueueMaintenance,
    wakeups: RecordedWakeups,
    claim_loop: CountedNotifications,
    database: Database,
    queue: Callable[..., str],
) -> None:
    waiting = queue()
    age(database, waiting)
    queue()  # has only just come: its own wake-up is on its way
    queue_maintenance.round()
    assert (wakeups.woken, claim_loop.notified) == ([waiting], 1)


def test_nothing_to_do_wakes_nobody(
    queue_maintenance: QueueMaintenance, wakeups: RecordedWakeups, claim_loop: CountedNotifications
) -> None:
    queue_maintenance.round()
    assert (wakeups.woken, claim_loop.notified) == ([], 0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Move the boot clock ahead, and the wall clock with it or not."""
    ahead = {"boot": 0.0, "wall": 0.0}
    real_boot, real_wall = maintenance.boot_time, time.time
    monkeypatch.setattr(maintenance, "boot_time", lambda: real_boot() + ahead["boot"])
    monkeypatch.setattr(maintenance.time, "time", lambda: real_wall() + ahead["wall"])

    def advance(boot: float = 0.0, wall: float = 0.0) -> None:
        ahead["boot"] += boot
        ahead["wall"] += wall

    return advance


def pass_a_lease(clock: Callable[..., None], rounds: Callable[[], None]) -> None:
    """Rounds every fifth of a lease."""
    for _ in range(6):
        clock(boot=4.0, wall=4.0)
        rounds()


@pytest.mark.parametrize("what", ["start", "outage", "suspension", "wall clock"])
def test_no_lease_runs_out_before_all_have_had_one_to_renew_it(
    clock: Callable[..., None],
    queue_maintenance: QueueMaintenance,
    database: Database,
    queue: Callable[..., str],
    run_of: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
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


def away() -> None:
    raise OperationalError("heartbeat", None, ConnectionError("away"))


def test_a_lost_run_is_queued_and_workers_are_woken_at_once(
    clock: Callable[..., None],
    queue_maintenance: QueueMaintenance,
    wakeups: RecordedWakeups,
    claim_loop: CountedNotifications,
    database: Database,
    queue: Callable[..., str],
    run_of: Callable[[str], Any],
) -> None:
    run_id = queue()
    with database.session() as session:
        db_queue.claim_next(session, "a worker that dies", lease_seconds=-1.0)
    pass_a_lease(clock, queue_maintenance.round)
    assert (run_of(run_id).state, wakeups.woken[0], claim_loop.notified >= 1) == ("queued", run_id, True)


def test_it_sends_heartbeats(
    queue_maintenance: QueueMaintenance, wakeups: RecordedWakeups, database: Database, eventually: Callable[..., None]
) -> None:
    task = queue_maintenance.task()
    task.start()
    eventually(lambda: len(wakeups.pings) >= 2)
    task.stop()
    with database.reading() as session:
        (worker,) = runs.list_workers(session)
    assert (worker.id, worker.host, worker.pid, worker.devices) == ("worker-1", "host", 7, ["cpu"])
    assert worker.seen_at > worker.started_at


def test_heartbeats_do_not_wait_for_rare_rounds(
    database: Database, wakeups: Any, claim_loop: Any, settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(maintenance, "time", SimpleNamespace(monotonic=lambda: clock.seconds, time=time.time))
    settings.ping_seconds, settings.reap_seconds = 5.0, 60.0
    identity = WorkerIdentity("worker-1", "host", 7, 1, ("cpu",))
    queue_maintenance = QueueMaintenance(database, wakeups, claim_loop, identity, settings)
    rounds: list[float] = []
    monkeypatch.setattr(queue_maintenance, "round", lambda: rounds.append(clock.seconds))
    task = queue_maintenance.task()
    for clock.seconds in range(10, 135, int(task._seconds)):
        task._round()
    assert (len(wakeups.pings), rounds) == (25, [10, 70, 130])


def test_what_a_study_needs_next_is_queued_and_workers_are_woken(
    queue_maintenance: QueueMaintenance,
    wakeups: RecordedWakeups,
    claim_loop: CountedNotifications,
    database: Database,
    study: Callable[..., str],
) -> None:
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
    queue_maintenance: QueueMaintenance,
    wakeups: RecordedWakeups,
    claim_loop: CountedNotifications,
    database: Database,
    queue: Callable[..., str],
    run_of: Callable[[str], Any],
) -> None:
    good, bad = queue(), queue()
    after_good, after_bad = queue(after=[good]), queue(after=[bad])
    with database.session() as session:
        runs.get_run(session, good).state, runs.get_run(session, bad).state = "succeeded", "failed"
    queue_maintenance.round()
    assert (wakeups.woken, claim_loop.notified) == ([after_good], 1)
    assert (run_of(after_good).state, run_of(after_bad).state) == ("queued", "cancelled")


def test_a_failed_round_ends_no_periodic_task(eventually: Callable[..., None]) -> None:
    rounds = iter([RuntimeError("a fault of ours"), True, None])
    done: list[object] = []

    def work() -> object:
        done.append(result := next(rounds, None))
        if isinstance(result, Exception):
            raise result
        return result

    task = PeriodicTask("test", work, 0.01)
    task.start()
    eventually(lambda: len(done) >= 4, "a fourth round")
    task.stop()
    assert done[1] is True


def test_a_periodic_task_may_begin_with_a_pause_and_go_on_at_once(eventually: Callable[..., None]) -> None:
    rounds: list[float] = []
    task = PeriodicTask("test", lambda: rounds.append(0.0), 3600.0, delayed=True)
    task.start()
    task.stop()
    assert rounds == []
    more = iter([True, True, False])
    eager = PeriodicTask("test", lambda: rounds.append(0.0) or next(more), 3600.0)
    eager.start()
    eventually(lambda: len(rounds) == 3, "two rounds more without a pause")
    eager.stop()
