"""Jobs that no run goes on with: each is ended by one worker of its engine, and found until then."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from sqlalchemy import update

from lcl_core.db.models import Run
from lcl_core.db.workers import WorkerIdentity, engine_device, record_heartbeat
from workers.executors.base import EngineUnreachable, MachineLost
from workers.maintenance import end_unwanted_jobs


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
