"""A run of several nodes reserves workers: who waits stays, one gang collects at a time, short runs go in between."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lcl_core.db import gang, leases
from lcl_core.db import queue as db_queue
from lcl_core.db import runs as db_runs
from lcl_core.db.models import Run
from lcl_core.db.session import Database
from lcl_core.db.states import State
from lcl_core.db.workers import WorkerIdentity, engine_device, record_heartbeat

Claimed = leases.Claim | gang.MemberLease | None
Queue = Callable[..., str]


class Clock:
    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def advance(self, **duration: float) -> None:
        self.time += timedelta(**duration)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(database_url: str, clock: Clock) -> Any:
    database = Database(database_url, clock)
    database.migrate()
    yield database
    database.dispose()


@pytest.fixture
def alive(database: Database) -> Callable[..., None]:
    def register(*names: str, **facts: Any) -> None:
        with database.session() as session:
            for name in names:
                record_heartbeat(session, WorkerIdentity(name, "host", 1, 1, ("cpu",), **{"home": "here", **facts}))

    return register


@pytest.fixture
def claim_for(database: Database) -> Callable[..., Any]:
    """What a worker gets; its membership, if it has one, lasts an hour."""

    def claim(worker: str, seat: Claimed = None) -> Claimed:
        assert seat is None or isinstance(seat, gang.MemberLease)
        with database.session() as session:
            return db_queue.claim_next(session, worker, 3600.0, ("cpu",), seat=seat)

    return claim


def wide(queue: Queue, nodes: int = 2, **facts: Any) -> str:
    return queue(spec={"engine": {"nodes": nodes}}, **facts)


def limited(queue: Queue, seconds: float, **facts: Any) -> str:
    return queue(spec={"timeout_seconds": seconds}, **facts)


def succeed(database: Database, claim: Any) -> None:
    with database.session() as session:
        leases.transition(leases.lock_with_lease(session, claim), State.SUCCEEDED, **leases.NO_LEASE)


def test_who_waits_stays_though_other_runs_are_queued(queue: Queue, alive: Any, claim_for: Any, clock: Clock) -> None:
    alive("w-1", "w-2")
    busy, run_id = queue(), wide(queue)
    assert claim_for("w-1").run_id == busy
    seat = claim_for("w-2")
    queue()
    for _ in range(20):
        clock.advance(minutes=1)
        alive("w-1", "w-2")
        assert claim_for("w-2", seat) == seat
    assert seat.run_id == run_id


def test_a_worker_that_becomes_free_joins_before_it_takes_another_run(
    database: Database, queue: Queue, alive: Any, claim_for: Any
) -> None:
    alive("w-1", "w-2")
    first = queue(owner="ada")
    busy = claim_for("w-1")
    run_id, _ = wide(queue, owner="ada"), queue(owner="bob")
    assert busy.run_id == first
    of_bob = claim_for("w-2")
    assert of_bob.run_id != run_id, "bob has nothing at work, and nobody waits yet"
    third = queue(owner="ada")
    alive("w-3")
    seat = claim_for("w-3")
    assert seat.run_id == run_id
    queue(owner="eve")
    succeed(database, of_bob)
    assert claim_for("w-2").run_id == run_id, "once a worker waits, the owners' turns do not matter"
    assert third


def test_gangs_collect_one_after_the_other(queue: Queue, alive: Any, claim_for: Any) -> None:
    names = [f"w-{number}" for number in range(4)]
    alive(*names)
    first, second = wide(queue, 3), wide(queue, 3)
    claims = [claim_for(name) for name in names[:3]]
    assert [claim.run_id for claim in claims] == [first] * 3
    assert claim_for(names[3]).run_id == second


def test_the_workers_of_a_gang_go_to_one_of_higher_priority(queue: Queue, alive: Any, claim_for: Any) -> None:
    alive("w-1", "w-2", "w-3")
    first = wide(queue, 3)
    seats = {name: claim_for(name) for name in ("w-1", "w-2")}
    urgent = wide(queue, 2, priority=1)
    moved = claim_for("w-1", seats["w-1"])
    assert isinstance(moved, gang.MemberLease)
    assert moved.run_id == urgent
    last = claim_for("w-2", seats["w-2"])
    assert isinstance(last, leases.Claim)
    assert last.run_id == urgent
    assert claim_for("w-3").run_id == first


def test_a_run_of_higher_priority_goes_first_and_one_of_lower_does_not(
    queue: Queue, alive: Any, claim_for: Any
) -> None:
    alive("w-1", "w-2")
    run_id = wide(queue, 2)
    seat = claim_for("w-1")
    queue(priority=-1)
    assert claim_for("w-1", seat) == seat
    urgent = queue(priority=1)
    claim = claim_for("w-1", seat)
    assert isinstance(claim, leases.Claim)
    assert claim.run_id == urgent
    assert claim_for("w-2").run_id == run_id


def test_a_run_that_ends_before_the_expected_start_is_put_in_between(
    database: Database, queue: Queue, alive: Any, claim_for: Any
) -> None:
    alive("w-1", "w-2")
    limited(queue, 3600)
    busy = claim_for("w-1")
    run_id = wide(queue)
    seat = claim_for("w-2")
    with database.session() as session:
        leases.renew_lease(session, busy, 3600, ran_seconds=3000.0)
    limited(queue, 601)
    assert claim_for("w-2", seat) == seat, "the other worker is free in ten minutes"
    short = limited(queue, 599)
    claim = claim_for("w-2", seat)
    assert isinstance(claim, leases.Claim)
    assert claim.run_id == short
    succeed(database, claim)
    assert claim_for("w-2").run_id == run_id


def test_nothing_is_put_in_between_beside_a_run_of_which_nothing_is_known(
    database: Database, queue: Queue, alive: Any, claim_for: Any
) -> None:
    """A run without timeout_seconds is expected to take as long as the last ones of its kind."""
    alive("w-1", "w-2")
    queue()
    busy = claim_for("w-1")
    wide(queue)
    seat = claim_for("w-2")
    limited(queue, 60)
    assert claim_for("w-2", seat) == seat
    with database.session() as session:
        earlier = db_runs.get_run(session, limited(queue, 9000, priority=-100))
        session.merge(earlier).state = State.SUCCEEDED.value
        session.get_one(Run, earlier.id).ran_seconds = 500.0
    assert isinstance(claim_for("w-2", seat), leases.Claim)
    assert busy


def test_a_gang_that_too_few_workers_are_alive_for_reserves_none(
    queue: Queue, alive: Any, claim_for: Any, clock: Clock
) -> None:
    alive("w-1", "w-2")
    run_id = wide(queue)
    seat = claim_for("w-1")
    assert seat.run_id == run_id
    clock.advance(minutes=1)
    alive("w-1")
    other = queue()
    assert claim_for("w-1", seat).run_id == other
    assert claim_for("w-1") is None
    alive("w-2")
    assert claim_for("w-1").run_id == run_id


def test_a_worker_with_an_engine_makes_up_no_gang(database: Database, queue: Queue, alive: Any, claim_for: Any) -> None:
    """It claims a run with all its nodes, or none."""
    alive("w-1")
    with database.session() as session:
        record_heartbeat(session, WorkerIdentity("w-2", "host", 1, 1, (engine_device("slurm"),), ("cpu",), home="here"))
    wide(queue)
    other = queue()
    assert claim_for("w-1").run_id == other


def test_only_workers_of_one_home_make_up_a_gang(
    database: Database, queue: Queue, alive: Any, claim_for: Any, run_of: Callable[[str], Any]
) -> None:
    alive("w-1", home="a" * 32)
    alive("w-2", home="b" * 32)
    run_id = wide(queue)
    assert claim_for("w-1") is None
    assert claim_for("w-2") is None
    with database.reading() as session:
        reason = db_runs.blocked_reasons(session, [run_of(run_id)])[run_id]
    assert reason["code"] == "separate_homes"
    assert f"1 of home {'a' * 32}, 1 of home {'b' * 32}" in reason["message"]
    alive("w-3", home="b" * 32)
    with database.reading() as session:
        assert db_runs.blocked_reasons(session, [run_of(run_id)]) == {}
    assert claim_for("w-1") is None
    assert isinstance(claim_for("w-3"), gang.MemberLease)
    assert claim_for("w-1") is None
    assert isinstance(claim_for("w-2"), leases.Claim)


def test_a_worker_of_several_slots_is_one_node(queue: Queue, alive: Any, claim_for: Any) -> None:
    alive("w-1", "w-2")
    run_id, other = wide(queue), queue()
    assert claim_for("w-1").run_id == run_id
    assert claim_for("w-1").run_id == other
    assert claim_for("w-1") is None
    assert isinstance(claim_for("w-2"), leases.Claim)
