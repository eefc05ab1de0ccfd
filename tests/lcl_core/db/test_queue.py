"""The order of claims: priority, then the owner with the fewest running runs, then the longest wait."""

import random
from collections import Counter
from datetime import timedelta

import pytest
from sqlalchemy import select

from lcl_core.db import queue as db_queue
from lcl_core.db.models import Run
from lcl_core.db.session import now
from tests.lcl_core.db.queued_runs import add_runs

pytestmark = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)

OWNERS = tuple(f"owner-{number}" for number in range(6))
ENGINE = db_queue.EngineCapacity("slurm", nodes=2, cpus=4.0, gpus=0.0, has_gpus=False)


def test_one_run_does_not_wait_behind_a_hundred_of_another_owner(queue, claim, run_of):
    for owner in ("many",) * 6 + ("few",) * 2:
        queue(owner=owner)
    assert [run_of(claim().run_id).owner for _ in range(4)] == ["many", "few", "many", "few"]


def test_priority_goes_before_shares_and_waiting_time_after(queue, claim):
    first, second, third = queue(owner="ada"), queue(owner="ada"), queue(owner="bob")
    urgent = [queue(owner="ada", priority=1) for _ in range(2)]
    assert [claim().run_id for _ in range(5)] == [*urgent, third, first, second]


def random_runs(chance, moment):
    """Of several owners, needs and priorities; some wait after a failure."""
    for number in range(60):
        resource = chance.choice(["cpu", "accelerator", "gpu"])
        yield {
            "id": f"run_{chance.randrange(10**6):06d}_{number}",
            "owner": chance.choice(OWNERS),
            "priority": chance.choice([0, 0, 0, 1, 2]),
            "resource": resource,
            "nodes": chance.choice([1, 1, 1, 2]),
            "gpus": 0 if resource == "cpu" else chance.choice([1, 2]),
            "after": chance.randrange(40),
            "ready_at": moment + timedelta(seconds=chance.choice([-60, -60, -60, 900])),
        }


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("claims_for", ["worker", "engine"])
def test_every_claim_is_the_first_in_order(database, seed, claims_for):
    with database.session() as session:
        moment = now(session)
    add_runs(database, list(random_runs(random.Random(seed), moment)))

    def claim_one(session):
        if claims_for == "worker":
            return db_queue.claim_next(session, "worker-1", offers=("cpu",))
        return db_queue.claim_for_engine(session, "worker-1", 30.0, ("cpu", "gpu"), ENGINE)

    claims = 0
    while True:
        with database.session() as session:
            runs = session.scalars(select(Run)).all()
            running = Counter(run.owner for run in runs if run.state == "running")
            able = [
                run
                for run in runs
                if run.state == "queued"
                and run.ready_at <= moment
                and run.resource in ("cpu", "accelerator")
                and (run.nodes == 1 or claims_for == "engine")
            ]
            order = sorted(able, key=lambda run: (-run.priority, running[run.owner], run.queued_at, run.id))
            claimed = claim_one(session)
        assert (claimed.run_id if claimed else None) == (order[0].id if order else None)
        if claimed is None:
            break
        claims += 1
    assert claims > 10


def test_runs_that_other_workers_are_claiming_are_skipped(database):
    if database.engine.dialect.name == "sqlite":
        pytest.skip("it has one writer at a time")
    add_runs(database, [{"id": f"run_{number}", "owner": "ada", "after": number} for number in range(3)])
    with database.session() as one, database.session() as two, database.session() as three:
        claimed = [db_queue.claim_next(session, "worker") for session in (one, two, three)]
        with database.session() as four:
            assert db_queue.claim_next(four, "worker") is None, "all are locked: nothing is waited for"
    assert [claim.run_id for claim in claimed] == ["run_0", "run_1", "run_2"]
