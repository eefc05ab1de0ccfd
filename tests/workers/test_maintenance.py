"""Queue maintenance: heartbeats, one maintainer, leases that run out, and jobs that no run goes on with."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from lcl_core.db import queue as db_queue
from lcl_core.db import runs, studies
from lcl_core.db.models import Run
from lcl_core.db.session import Database
from lcl_core.db.workers import (
    PeriodicTask,
    WorkerIdentity,
    engine_device,
    lease_for_serving,
    record_heartbeat,
    serving_devices,
)
from workers import maintenance
from workers.executors.base import EngineUnreachable, MachineLost
from workers.maintenance import QueueMaintenance, end_unwanted_jobs

BOTH = pytest.mark.parametrize("settings", ["sqlite", "postgresql"], indirect=True)
TICK = 0.25  # between two rounds
TAKEOVER = 5 * TICK


class Team:
    """Workers on one database, whose clock is the test's."""

    def __init__(self, url, settings, monkeypatch):
        self.seconds = self.ahead = 0.0  # ahead: clock of the database
        self.database = Database(url, clock=self.clock)
        self.notified: list[str] = []
        self.settings = settings.model_copy(update={"reap_seconds": TICK})
        self.members: dict[str, QueueMaintenance] = {}
        monkeypatch.setattr(maintenance, "time", SimpleNamespace(monotonic=lambda: self.seconds))
        monkeypatch.setattr(maintenance, "boot_time", lambda: self.seconds)

    def clock(self):
        return datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds + self.ahead)

    def add(self, *names):
        for name in names:
            claim_loop = SimpleNamespace(notify=lambda name=name: self.notified.append(name))
            identity = WorkerIdentity(name, "host", 1, 1, ("cpu",))
            self.members[name] = QueueMaintenance(self.database, claim_loop, identity, self.settings)

    def rounds(self, seconds):
        for _ in range(round(seconds / TICK)):
            self.seconds += TICK
            for member in self.members.values():
                member.round()

    def maintainers(self):
        return [name for name, member in self.members.items() if member.is_maintainer]


@pytest.fixture
def team(database, settings, monkeypatch):
    team = Team(database.url, settings, monkeypatch)
    yield team
    team.database.dispose()


@BOTH
def test_another_one_takes_over_within_a_few_heartbeats(team):
    team.add("first", "second", "third")
    team.rounds(5)
    lost = team.members.pop("first")
    team.rounds(TAKEOVER + 2 * TICK)
    assert team.maintainers() == ["second"]
    assert not lost.is_maintainer, "it knows without the database"
    team.members["first"] = lost
    team.rounds(5)
    assert team.maintainers() == ["first"]


@BOTH
def test_every_worker_looks_for_runs_that_may_be_claimed(team, queue):
    team.add("first", "second")
    team.rounds(2 * TICK)
    assert team.notified == []
    run_id = queue()
    with team.database.session() as session:
        runs.get_run(session, run_id).ready_at = datetime(2030, 1, 1, 0, 0, 2, tzinfo=UTC)
    team.rounds(1)
    assert team.notified == [], "it is to be started later"
    team.rounds(1)
    assert set(team.notified) == {"first", "second"}


@pytest.mark.parametrize("what", ["start", "outage", "sleep", "clock"])
def test_no_lease_runs_out_before_all_have_had_one_to_renew_it(team, queue, run_of, monkeypatch, what):
    team.add("first")
    run_id, lease = queue(), team.settings.lease_seconds
    if what != "start":
        team.rounds(lease + 1)
    with team.database.session() as session:
        runs.get_run(session, run_id).ready_at = datetime(2029, 1, 1, tzinfo=UTC)
        db_queue.claim_next(session, "a worker that may renew it", lease_seconds=-1.0)
        lease_for_serving(session, "GPU-1", -1.0)
    if what == "outage":
        with monkeypatch.context() as patched:
            patched.setattr(team.members["first"], "_heartbeat", away)
            with pytest.raises(OperationalError):
                team.rounds(TICK)
    elif what == "sleep":
        team.seconds += 3600
    elif what == "clock":  # of a standby that takes over
        team.ahead = 3600
    team.rounds(lease - 1)
    assert run_of(run_id).state == "running"
    with team.database.reading() as session:
        assert serving_devices(session) == {"GPU-1"}
    team.rounds(2)
    assert run_of(run_id).state == "queued"
    with team.database.reading() as session:
        assert serving_devices(session) == set()


def away():
    raise OperationalError("heartbeat", None, ConnectionError("away"))


def test_what_a_study_needs_next_is_queued(team, study):
    study_id = study()
    with team.database.session() as session:
        run = runs.get_run(session, studies.study_cells(session, study_id)[0].run.id)
        run.state, run.encoder_id = "succeeded", "enc_1"
    team.add("first")
    team.rounds(1)
    with team.database.reading() as session:
        (evaluation,) = runs.list_runs(session, kind="evaluate").items
    assert (evaluation.state, evaluation.spec["encoder"]) == ("queued", "enc_1")


def test_a_run_whose_predecessor_has_ended_is_released_or_cancelled(team, queue, run_of):
    good, bad = queue(), queue()
    after_good, after_bad = queue(after=[good]), queue(after=[bad])
    with team.database.session() as session:
        runs.get_run(session, good).state, runs.get_run(session, bad).state = "succeeded", "failed"
    team.add("first")
    team.rounds(1)
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


class EngineStub:
    """Jobs by their name: how long after SIGTERM each ends by itself, or what its engine says of it."""

    def __init__(self, jobs):
        self._jobs = jobs
        self.history: list[tuple[str, str]] = []

    @contextmanager
    def attach(self, handle, run_dir):
        job = self._jobs[handle["name"]]
        if isinstance(job, Exception):
            raise job
        yield StoppedJob(self, handle["name"], ends=job)
        self.history.append((handle["name"], "killed"))


class StoppedJob:
    def __init__(self, engine, name, ends):
        self._engine, self._name, self._ends = engine, name, ends

    def terminate(self):
        self._engine.history.append((self._name, "terminated"))

    def wait(self, seconds):
        self._ends -= 1
        if self._ends > 0:
            return None
        self._engine.history.append((self._name, "ended"))
        return 75


@pytest.fixture
def cancelled(database, queue, settings):
    """A cancelled run with an unwanted job of that name."""
    settings.executor, settings.cancel_grace_seconds = "slurm", 0.2
    with database.session() as session:
        for name, executor in (("local", "local"), ("worker-1", "slurm"), ("worker-2", "slurm")):
            record_heartbeat(session, WorkerIdentity(name, "host", 1, 1, (engine_device(executor),)))

    def prepare(name):
        run_id = queue()
        handle = {"executor": "slurm", "name": name, "nodes": 1, "unwanted": True}
        with database.session() as session:
            session.execute(update(Run).where(Run.id == run_id).values(state="cancelled", handle=handle))
        return run_id

    return prepare


def test_what_has_ended_is_forgotten_and_what_may_run_is_found_again(database, settings, cancelled, run_of):
    jobs: dict[str, float | Exception] = {
        "orderly": 2.0,
        "hung": float("inf"),
        "gone": MachineLost("unknown"),
        "away": EngineUnreachable("no answer"),
        "broken": ValueError("an error of ours"),
    }
    engine, found = EngineStub(jobs), {name: cancelled(name) for name in jobs}
    assert end_unwanted_jobs(database, settings, engine, "worker-1") == 3  # type: ignore[arg-type]
    assert [what for name, what in engine.history if name == "orderly"] == ["terminated", "ended", "killed"]
    assert [what for name, what in engine.history if name == "hung"] == ["terminated", "killed"], "after the grace"
    kept = {name for name, run_id in found.items() if run_of(run_id).handle is not None}
    assert kept == {"away", "broken"}
    jobs["away"] = MachineLost("unknown")
    assert end_unwanted_jobs(database, settings, engine, "worker-1") == 1  # type: ignore[arg-type]
    assert run_of(found["away"]).handle is None


def test_one_worker_ends_them_at_a_time(database, settings, cancelled, run_of):
    run_id, engine = cancelled("orderly"), EngineStub({"orderly": 1.0})
    assert end_unwanted_jobs(database, settings, engine, "worker-2") == 0  # type: ignore[arg-type]
    assert engine.history == []
    assert run_of(run_id).handle is not None
