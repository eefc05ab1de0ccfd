"""A claim takes the first run of the documented order, and what it reads does not grow with the queue."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, select, text, update
from sqlalchemy.orm import Session

from benchmarks.scale import instructions_of_a_claim
from lcl_core.db import queue as db_queue
from lcl_core.db.models import Run
from lcl_core.db.session import Database, now
from tests.lcl_core.db.queued_runs import add_runs

OWNERS = tuple(f"owner-{number}" for number in range(6))
WITH_HANDLE = {"executor": "ray", "job": "job-1"}
WITHOUT_GPUS = db_queue.EngineCapacity("slurm", nodes=2, cpus=4.0, gpus=0.0, has_gpus=False)


def random_runs(chance: random.Random, count: int, moment: datetime) -> list[dict[str, Any]]:
    """Of several owners, needs and priorities; some wait after a failure, some for the worker of their processes."""
    rows = []
    for number in range(count):
        resource = chance.choice(["cpu", "accelerator", "gpu"])
        rows.append(
            {
                "id": f"run_{chance.randrange(10**6):06d}_{number}", "owner": chance.choice(OWNERS),
                "priority": chance.choice([0, 0, 0, 1, 2]), "resource": resource, "nodes": chance.choice([1, 1, 1, 2]),
                "gpus": 0 if resource == "cpu" else chance.choice([1, 2]), "after": chance.randrange(40),
                "ready_at": moment + timedelta(seconds=chance.choice([-60, -60, -60, 900])),
                "handle": chance.choice([None, None, None, WITH_HANDLE]),
            }
        )  # fmt: skip
    return rows


def first_in_order(runs: Sequence[Run], moment: datetime, serves: Callable[[Run], bool]) -> str | None:
    """What a claim is to take: priority, fewest running runs of the owner, longest wait."""
    running = Counter(run.owner for run in runs if run.state == "running")
    able = [
        run
        for run in runs
        if run.state == "queued" and run.handle is None and (run.ready_at is None or run.ready_at <= moment)
    ]
    order = sorted(filter(serves, able), key=lambda run: (-run.priority, running[run.owner], run.queued_at, run.id))
    return order[0].id if order else None


def check_order(database: Database, claim: Callable[[Any], Any], serves: Callable[[Run], bool]) -> int:
    """Claim until nothing is left. Returns: the number of claims."""
    claims = 0
    while True:
        with database.session() as session:
            runs = session.scalars(select(Run)).all()
            expected = first_in_order(runs, now(session), serves)
        with database.session() as session:
            claimed = claim(session)
        assert (claimed.run_id if claimed else None) == expected
        if claimed is None:
            return claims
        claims += 1


@pytest.mark.parametrize("seed", range(3))
def test_the_first_run_is_claimed_whatever_the_queue(database: Database, seed: int) -> None:
    chance = random.Random(seed)
    with database.session() as session:
        moment = now(session)
    add_runs(database, random_runs(chance, 60, moment))
    served = {"cpu", "accelerator"}  # a worker without a device does no run of the class gpu
    for offers in (("cpu",), ("cpu", "gpu")):
        claims = check_order(
            database,
            lambda session, offers=offers: db_queue.claim_next(session, "worker-1", offers=offers),
            lambda run: run.nodes == 1 and run.resource in served,
        )
        assert (claims > 0) == (offers == ("cpu",))


@pytest.mark.parametrize("seed", range(3))
def test_an_engine_claims_the_first_run_that_fits(database: Database, seed: int) -> None:
    chance = random.Random(seed)
    with database.session() as session:
        moment = now(session)
    add_runs(database, random_runs(chance, 60, moment))
    claims = check_order(
        database,
        lambda session: db_queue.claim_for_engine(session, "worker-1", 30.0, ("cpu", "gpu"), WITHOUT_GPUS),
        lambda run: run.resource in ("cpu", "accelerator"),
    )
    assert claims > 0


def test_an_engine_claims_runs_with_processes_of_its_own_first(database: Database) -> None:
    rows = [{"id": "run_first", "owner": "ada", "priority": 5, "after": 0}]
    rows += [{"id": "run_own", "owner": "ada", "handle": {"executor": "slurm"}, "after": 9, "nodes": 2}]
    rows += [{"id": "run_other", "owner": "ada", "handle": WITH_HANDLE, "after": 1}]
    add_runs(database, rows)
    with database.session() as session:
        session.execute(update(Run).values(ready_at=now(session)))  # too early for a worker without their processes
        claims = [db_queue.claim_for_engine(session, "w", 30.0, ("cpu", "gpu"), WITHOUT_GPUS) for _ in range(3)]
    assert [claim and claim.run_id for claim in claims] == ["run_own", "run_first", None]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_the_next_run_of_the_owner_is_claimed_while_another_worker_claims_the_first(database: Database) -> None:
    add_runs(database, [{"id": f"run_{number}", "owner": "ada", "after": number} for number in range(3)])
    with database.session() as one, database.session() as two, database.session() as three:
        claimed = [db_queue.claim_next(session, "worker") for session in (one, two, three)]
        with database.session() as four:
            assert db_queue.claim_next(four, "worker") is None, "all are locked: nothing is waited for"
    assert [claim.run_id for claim in claimed if claim] == ["run_0", "run_1", "run_2"]


def claim_as_engine(session: Session, worker: str) -> db_queue.Claim | None:
    return db_queue.claim_for_engine(session, worker, 30.0, ("cpu", "gpu"), WITHOUT_GPUS)


def work_of_a_claim(database: Database, claim: Callable[..., db_queue.Claim | None]) -> int:
    """Rows of runs that a claim reads on PostgreSQL, instructions of SQLite's machine that it takes."""
    if database.engine.dialect.name == "sqlite":
        return instructions_of_a_claim(database, claim)
    with database.session() as session:
        # a queue of thousands is cheaper to read whole than by its index
        session.execute(text("SET LOCAL enable_seqscan = off"))
        assert claim(session, "worker-1") is not None
        read = "SELECT sum(idx_tup_fetch + seq_tup_read) FROM pg_stat_xact_user_tables WHERE relname = 'run'"
        return int(session.execute(text(read)).scalar_one())


@pytest.fixture
def statements(database: Database) -> list[Any]:
    """Every statement that is sent, as the object that was composed."""
    sent: list[Any] = []

    def record(_connection: object, statement: Any, *_: object) -> None:
        sent.append(statement)

    event.listen(database.engine, "before_execute", record)
    event.listen(database.writer, "before_execute", record)
    return sent


@pytest.mark.parametrize("gpus", [(), ("GPU-1", "GPU-2", "GPU-3")], ids=["cpu", "gpu"])
def test_the_statement_of_the_next_run_is_composed_once(
    database: Database, statements: list[Any], gpus: tuple[str, ...]
) -> None:
    add_runs(database, [{"id": f"run_{number}", "owner": "ada", "after": number} for number in range(3)])
    claimed: list[str] = []
    composed: list[set[int]] = []
    for _ in range(3):
        statements.clear()
        with database.session() as session:
            claim = db_queue.claim_next(session, "worker-1", devices=gpus)
        assert claim is not None
        claimed.append(claim.run_id)
        # what asks for the time and for devices is short
        composed.append({id(each) for each in statements if "run.queued_at" in str(each)})
    assert claimed == ["run_0", "run_1", "run_2"]
    assert len(composed[0]) >= 3
    assert composed[1] == composed[2] == composed[0]


@pytest.mark.parametrize("claim", [db_queue.claim_next, claim_as_engine], ids=["worker", "engine"])
@pytest.mark.parametrize("resource", ["accelerator", "gpu"])
def test_a_long_queue_costs_a_claim_no_more(
    database: Database, resource: str, claim: Callable[..., db_queue.Claim | None]
) -> None:
    """Neither of runs that it could claim, nor of runs that it cannot: the worker has no GPU."""
    owners = 8
    work = []
    for count in (400, 8000):
        rows = [
            {"id": f"run_{count}_{number}", "owner": f"owner-{number % owners}", "priority": number % 3,
             "resource": resource, "after": number % 500}
            for number in range(count)
        ]  # fmt: skip
        last = {"id": f"run_last_{count}", "owner": "owner-0", "resource": "cpu", "gpus": 0, "after": 1000}
        add_runs(database, [*rows, last])
        work.append(work_of_a_claim(database, claim))
    assert work[1] < 1.5 * work[0] + 20
