"""Runs whose processes an engine places: what fits, who goes on with them, and how often that is for free."""

from datetime import timedelta

import pytest
from sqlalchemy import update

from lcl_core.db import leases, runs
from lcl_core.db import queue as db_queue
from lcl_core.db.models import Run
from lcl_core.db.queue import EngineCapacity
from tests.small_spec import SMALL_PRETRAIN

EXPIRED = -1.0
HANDLE = {"executor": "ray", "name": "lcl-run", "nodes": 1}
FREE = EngineCapacity("ray", nodes=4, cpus=4.0, gpus=0.0, has_gpus=False)
FULL = EngineCapacity("ray", nodes=4, cpus=0.0, gpus=0.0, has_gpus=False)


@pytest.fixture
def claim_for_engine(database):
    def take(capacity, seconds=30.0):
        with database.session() as session:
            return db_queue.claim_for_engine(session, "worker", seconds, ("cpu", "gpu"), capacity)

    return take


def gang(nodes):
    return {"spec": {**SMALL_PRETRAIN, "engine": {"nodes": nodes}}}


def start_run(queue, claim_for_engine):
    run_id, claimed = queue(), claim_for_engine(FREE)
    assert claimed is not None
    return run_id, claimed


def lose_worker(database, claim):
    with database.session() as session:
        leases.record_handle(session, claim, HANDLE)
        leases.renew_lease(session, claim, EXPIRED)
    with database.session() as session:
        leases.expire_leases(session)


def make_due(database, run_id, seconds):
    """As if it had been queued so long ago."""
    with database.session() as session:
        moment = session.get_one(Run, run_id).ready_at
        assert moment is not None
        session.execute(update(Run).where(Run.id == run_id).values(ready_at=moment - timedelta(seconds=seconds)))


def test_a_claim_is_for_all_nodes_and_only_where_all_fit(queue, claim_for_engine):
    large, small = queue(**gang(3)), queue(**gang(2))
    two = EngineCapacity("ray", nodes=4, cpus=2.0, gpus=0.0, has_gpus=False)
    claimed = claim_for_engine(two)
    assert claimed is not None
    assert (claimed.run_id, claimed.nodes) == (small, 2)
    assert claim_for_engine(two) is None
    assert claim_for_engine(EngineCapacity("ray", 2, 8.0, 0.0, False)) is None, "too few machines"
    claimed = claim_for_engine(FREE)
    assert claimed is not None
    assert claimed.run_id == large


def test_gpus_are_counted_where_the_engine_has_some(queue, claim_for_engine):
    run_id = queue(resource="gpu")
    assert claim_for_engine(FREE) is None
    assert claim_for_engine(EngineCapacity("ray", 4, 4.0, 0.0, True)) is None, "all in use"
    claimed = claim_for_engine(EngineCapacity("ray", 4, 4.0, 1.0, True))
    assert claimed is not None
    assert (claimed.run_id, claimed.gpus) == (run_id, 1)


def test_a_lost_worker_costs_nothing_where_its_processes_go_on(database, queue, run_of, claim_for_engine):
    run_id, claimed = start_run(queue, claim_for_engine)
    lose_worker(database, claimed)
    run = run_of(run_id)
    assert (run.state, run.attempt, run.handle) == ("queued", 0, HANDLE)
    assert run.setbacks == {leases.REATTACHED: 1}
    with database.session() as session:
        assert db_queue.claim_next(session, "of this machine") is None, "its processes wait for another worker"
    claimed = claim_for_engine(FULL)
    assert claimed is not None, "it has its place already"
    assert (claimed.attempt, claimed.handle) == (1, HANDLE)


def unwanted(database, executor="ray"):
    with database.reading() as session:
        return leases.unwanted_processes(session, executor)


@pytest.mark.parametrize(
    ("stop", "state", "go_on"),
    [
        (runs.cancel_run, "cancelled", runs.resume_run),
        (runs.cancel_run, "cancelled", runs.retry_run),
        (runs.pause_run, "paused", runs.unpause_run),
    ],
)
def test_processes_of_a_run_that_is_stopped_without_a_worker_are_found_until_they_are_ended(
    database, queue, run_of, claim_for_engine, stop, state, go_on
):
    run_id, claimed = start_run(queue, claim_for_engine)
    lose_worker(database, claimed)
    assert unwanted(database) == []
    with database.session() as session:
        stop(session, run_id)
    marked = {**HANDLE, leases.UNWANTED: True}
    assert (run_of(run_id).state, run_of(run_id).handle) == (state, marked)
    assert unwanted(database, "slurm") == []
    with database.session() as session:
        go_on(session, run_id)
    assert unwanted(database) == [(run_id, marked)]
    assert claim_for_engine(FREE) is None, "its old processes are neither re-attached nor doubled"
    with database.session() as session:
        leases.forget_processes(session, run_id, marked)
    claimed = claim_for_engine(FREE)
    assert claimed is not None
    assert (claimed.run_id, claimed.handle) == (run_id, None)


def test_a_run_that_nobody_could_end_is_for_every_worker_later(database, queue, run_of, claim_for_engine):
    run_id, claimed = start_run(queue, claim_for_engine)
    lose_worker(database, claimed)
    with database.session() as session:
        runs.cancel_run(session, run_id)
        runs.retry_run(session, run_id)
    make_due(database, run_id, leases.REATTACH_SECONDS + 1)
    claimed = claim_for_engine(FREE)
    assert claimed is not None
    assert (claimed.handle, run_of(run_id).handle) == (None, None), "it begins anew"
    newer = {**HANDLE, "name": "lcl-run-newer"}
    with database.session() as session:
        leases.record_handle(session, claimed, newer)
        leases.forget_processes(session, run_id, {**HANDLE, leases.UNWANTED: True})
    assert run_of(run_id).handle == newer
