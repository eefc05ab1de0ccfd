"""One of the workers does what needs to be done once; another one does when it is lost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import event

from lcl_core.db import submit as db_submit
from lcl_core.db.session import Database
from lcl_core.db.workers import WorkerIdentity, lease_for_serving, serving_devices
from workers import maintenance
from workers.maintenance import QueueMaintenance

BOTH = pytest.mark.parametrize("settings", ["sqlite", "postgresql"], indirect=True)
TICK = 0.25  # between two rounds, and between two heartbeats
LEASE = 3 * TICK


class Broker:
    """Records what is sent; ``up``: whether it can be reached."""

    def __init__(self):
        self.up = True
        self.woken: list[str] = []
        self.to_all: list[str | None] = []

    def wake(self, run_id):
        self.woken.append(run_id)
        return self.up

    def wake_all(self, run_id):
        self.to_all.append(run_id)
        return self.up

    def ping(self, _sender):
        return self.up


class Team:
    """Workers on one database, whose clock is the test's."""

    def __init__(self, url, settings, monkeypatch):
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

    def add(self, name):
        claim_loop: Any = SimpleNamespace(notify=lambda: self.scans.append(name))
        identity = WorkerIdentity(name, "host", 1, 1, ("cpu",))
        broker: Any = self.broker
        self.members[name] = QueueMaintenance(self.database, broker, claim_loop, identity, self.settings)

    def submit(self):
        with self.database.session() as session:
            return db_submit.submit(session, "pretrain", {}).id

    def rounds(self, seconds):
        """Statements that the members execute in that time."""
        before = self.statements
        for _ in range(round(seconds / TICK)):
            self.seconds += TICK
            for member in self.members.values():
                member._heartbeat_and_round()
        return self.statements - before

    def maintainers(self):
        return [name for name, member in self.members.items() if member.is_maintainer]

    def _count(self, _connection, _cursor, statement, *_):
        self.statements += not statement.startswith("BEGIN")


@pytest.fixture
def team(database, settings, monkeypatch):
    team = Team(database.url, settings, monkeypatch)
    yield team
    team.database.dispose()


@BOTH
def test_another_one_takes_over_within_a_lease(team):
    for name in ("first", "second", "third"):
        team.add(name)
    team.rounds(5)
    lost = team.members.pop("first")
    team.rounds(LEASE + 2 * TICK)
    assert team.maintainers() == ["second"]
    assert not lost.is_maintainer, "it knows without the database"
    team.members["first"] = lost
    team.rounds(5)
    assert team.maintainers() == ["first"]


@BOTH
def test_a_run_that_nobody_claims_is_announced_once_and_scans_are_rare(team):
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
def test_without_the_broker_every_worker_looks_for_itself(team):
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
def test_the_gpu_of_an_api_goes_to_runs_again_when_it_has_ended_and_not_after_an_outage(team, monkeypatch):
    team.add("first")
    team.rounds(25)  # more than a lease of the runs
    with team.database.session() as session:
        lease_for_serving(session, "GPU-1", 5.0)

    def is_serving():
        with team.database.reading() as session:
            return serving_devices(session) == {"GPU-1"}

    team.rounds(4)
    team.seconds += 3600  # the database, or the whole machine, is away
    team.rounds(15)
    assert is_serving(), "the api has had less than a lease's time to renew"
    team.rounds(10)
    assert not is_serving()
