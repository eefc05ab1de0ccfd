"""One of the workers does what needs to be done once; another one does when it is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import event

from lcl_core.db import queue as db_queue
from lcl_core.db import runs
from lcl_core.db import submit as db_submit
from lcl_core.db.session import Database
from lcl_core.db.workers import WorkerIdentity, lease_for_serving, release_task, serving_devices
from tests.workers.worker_processes import WorkerProcesses
from workers import maintenance
from workers.maintenance import MAINTENANCE, QueueMaintenance
from workers.settings import WorkerSettings

BOTH = pytest.mark.parametrize("settings", ["sqlite", "postgresql"], indirect=True)
TICK = 0.25  # between two rounds, and between two heartbeats
LEASE = 3 * TICK


class Broker:
    """Records what is sent; ``up``: whether it can be reached."""

    def __init__(self) -> None:
        self.up = True
        self.woken: list[str] = []
        self.to_all: list[str | None] = []

    def wake(self, run_id: str) -> bool:
        self.woken.append(run_id)
        return self.up

    def wake_all(self, run_id: str | None) -> bool:
        self.to_all.append(run_id)
        return self.up

    def ping(self, _sender: str) -> bool:
        return self.up


class Team:
    """Workers on one database, whose clock is the test's."""

    def __init__(self, url: str, settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        self.database = Database(url, clock=lambda: datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds))
        self.broker = Broker()
        self.statements = 0
        self.scans: list[str] = []
        self.settings = settings.model_copy(update={"reap_seconds": TICK, "ping_seconds": TICK})
        self.members: dict[str, QueueMaintenance] = {}
        monkeypatch.setattr(maintenance, "time", SimpleNamespace(monotonic=lambda: self.seconds, time=lambda: 0.0))
        monkeypatch.setattr(maintenance, "boot_time", lambda: self.seconds)
        event.listen(self.database.engine, "after_cursor_execute", self._count)
        if self.database.writer.pool is not self.database.engine.pool:  # on SQLite it is the same engine
            event.listen(self.database.writer, "after_cursor_execute", self._count)

    def add(self, name: str) -> None:
        claim_loop: Any = SimpleNamespace(notify=lambda: self.scans.append(name))
        identity = WorkerIdentity(name, "host", 1, 1, ("cpu",))
        broker: Any = self.broker
        self.members[name] = QueueMaintenance(self.database, broker, claim_loop, identity, self.settings)

    def submit(self) -> str:
        with self.database.session() as session:
            return db_submit.submit(session, "pretrain", {}).id

    def rounds(self, seconds: float) -> int:
        """Statements that the members execute in that time."""
        before = self.statements
        for _ in range(round(seconds / TICK)):
            self.seconds += TICK
            for member in self.members.values():
                member._heartbeat_and_round()
        return self.statements - before

    def maintainers(self) -> list[str]:
        return [name for name, member in self.members.items() if member.is_maintainer]

    def _count(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        self.statements += not statement.startswith("BEGIN")


@pytest.fixture
def team(database: Database, settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Team]:
    team = Team(database.url, settings, monkeypatch)
    yield team
    team.database.dispose()


@BOTH
def test_three_workers_cost_hardly_more_than_one(team: Team) -> None:
    team.add("first")
    team.rounds(5)
    alone = team.rounds(20)
    team.add("second")
    team.add("third")
    team.rounds(5)
    together = team.rounds(20)
    heartbeats = round(20 / TICK)  # of this test's settings, as many as rounds
    assert team.maintainers() == ["first"]
    assert (together - alone) / 2 <= 8 * heartbeats, "a worker more sends heartbeats alone"
    assert alone >= 8 * heartbeats


@BOTH
def test_another_one_takes_over_within_a_lease(team: Team) -> None:
    for name in ("first", "second", "third"):
        team.add(name)
    team.rounds(5)
    lost = team.members.pop("first")
    team.rounds(LEASE + 2 * TICK)
    assert team.maintainers() == ["second"]
    assert not lost.is_maintainer, "it knows without the database"
    team.members["first"] = lost
    team.rounds(5)
    assert team.maintainers() == ["second"]


@BOTH
def test_one_that_ends_in_order_leaves_the_work_at_once(team: Team) -> None:
    for name in ("first", "second"):
        team.add(name)
    team.rounds(5)
    del team.members["first"]
    with team.database.session() as session:
        release_task(session, MAINTENANCE, "first")
    team.rounds(TICK)
    assert team.maintainers() == ["second"]


@BOTH
def test_nothing_is_done_twice_when_the_maintainer_is_lost(
    team: Team, queue: Callable[..., str], study: Callable[..., str], run_of: Callable[[str], Any]
) -> None:
    for name in ("first", "second", "third"):
        team.add(name)
    team.rounds(25)  # more than a lease of the runs, before which none counts as lost
    lost, done = queue(), queue()
    after = queue(after=[done])
    with team.database.session() as session:
        claimed = db_queue.claim_next(session, "a worker that dies", lease_seconds=0.1)
        assert claimed is not None
        runs.get_run(session, done).state = "succeeded"
    assert claimed.run_id == lost
    del team.members["first"]
    team.rounds(30)
    assert (team.broker.woken.count(lost), team.broker.woken.count(after)) == (1, 1)
    assert (run_of(lost).state, run_of(lost).attempt, run_of(after).state) == ("queued", 1, "queued")
    assert len(team.broker.to_all) <= 2, "each of the two is announced to all, by the one that does the work"


@BOTH
def test_a_run_that_nobody_claims_is_announced_once_and_scans_are_rare(team: Team) -> None:
    for name in ("first", "second"):
        team.add(name)
    team.rounds(5)
    team.scans.clear()
    run_id = team.submit()
    team.rounds(5)
    assert (team.broker.to_all, team.scans) == ([run_id], ["first"])
    team.rounds(35)
    assert team.broker.to_all == [run_id]
    assert team.scans.count("second") == 1, "every 30 s, in case that a message is lost"


@BOTH
def test_without_the_broker_every_worker_looks_for_itself(team: Team) -> None:
    for name in ("first", "second"):
        team.add(name)
    team.broker.up = False
    run_id = team.submit()
    team.rounds(2)
    assert team.scans.count("second") == 2 / TICK - 1, "in each round but the first, when its wake-up may still come"
    team.broker.up = True
    team.rounds(1)
    assert team.broker.to_all[-1] == run_id, "what could not be announced is announced when the broker is back"
    team.scans.clear()
    team.rounds(10)
    assert team.scans.count("second") <= 1


@BOTH
def test_the_maintainer_alone_thins_metrics(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = team.settings.model_copy(update={"metric_days": 30.0})
    assert maintenance.thinning_tasks(team.database, team.settings, lambda: True) == [], "they are kept by default"
    thinned: list[float] = []
    monkeypatch.setattr(maintenance, "thin_ended_runs", lambda _, days: thinned.append(days) or 1)
    for is_maintainer in (False, True):
        (task,) = maintenance.thinning_tasks(team.database, settings, lambda it=is_maintainer: it)
        task._round()
    assert thinned == [30.0]


@BOTH
def test_a_worker_that_nobody_woke_gets_a_run_through_the_maintainer(
    worker_processes: WorkerProcesses,
    database: Database,
    queue: Callable[..., str],
    run_of: Callable[[str], Any],
    eventually: Callable[..., None],
) -> None:
    """Real processes: the first is busy, and the second looks for itself once an hour."""

    def consuming() -> int:
        with database.reading() as session:
            return sum(worker.consumed_at is not None for worker in runs.list_workers(session))

    first = worker_processes.start(LCL_SCAN_SECONDS="3600")
    long = queue(steps=100_000)
    eventually(lambda: run_of(long).state == "running")
    worker_processes.start(LCL_SCAN_SECONDS="3600")
    eventually(lambda: consuming() == 2, "two workers that consume messages")
    short = queue()
    eventually(lambda: run_of(short).state == "succeeded")
    assert run_of(long).state == "running"
    first.terminate()
    eventually(lambda: run_of(long).lease_owner not in (None, owner_of(run_of, long, first.pid)), "another worker")


def owner_of(run_of: Callable[[str], Any], run_id: str, pid: int) -> str | None:
    """The worker that has the run, if it is that process."""
    owner = run_of(run_id).lease_owner
    return owner if owner is not None and f"-{pid}-" in owner else None


@BOTH
def test_the_gpu_of_an_api_goes_to_runs_again_when_it_has_ended_and_not_after_an_outage(
    team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    team.add("first")
    team.rounds(25)  # more than a lease of the runs
    with team.database.session() as session:
        lease_for_serving(session, "GPU-1", 5.0)

    def is_serving() -> bool:
        with team.database.reading() as session:
            return serving_devices(session) == {"GPU-1"}

    team.rounds(4)
    team.seconds += 3600  # the database, or the whole machine, is away
    team.rounds(15)
    assert is_serving(), "the api has had less than a lease's time to renew"
    team.rounds(10)
    assert not is_serving()


def test_heartbeats_come_between_the_releases_of_many_dependents(
    team: Team, run_of: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db_submit, "RELEASED_AT_ONCE", 2)
    first = team.submit()
    with team.database.session() as session:
        dependents = [db_submit.submit(session, "pretrain", {}, after=[first]).id for _ in range(5)]
    team.add("first")
    maintainer = team.members["first"]
    team.rounds(TICK)
    with team.database.session() as session:
        runs.get_run(session, first).state = "succeeded"
    heartbeats: list[int] = []
    record = maintenance.record_heartbeat

    def count(*given: Any) -> None:
        heartbeats.append(sum(run_of(run_id).state == "queued" for run_id in dependents))
        record(*given)

    monkeypatch.setattr(maintenance, "record_heartbeat", count)
    at_once = []
    for _ in range(3):
        team.seconds += TICK  # a release takes so long
        at_once.append(maintainer._heartbeat_and_round())
    assert at_once == [True, True, False], "the next one does not wait for the next round"
    assert heartbeats == [0, 2, 4]
    assert {run_of(run_id).state for run_id in dependents} == {"queued"}
