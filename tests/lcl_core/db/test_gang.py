"""Runs of several nodes: taken by all or none, given back, and over for all when one is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text

from lcl_core.db import complete_run, gang, leases
from lcl_core.db import queue as db_queue
from lcl_core.db import runs as db_runs
from lcl_core.db.models import GangMemberRow, Worker
from lcl_core.db.session import Database
from lcl_core.db.workers import WorkerIdentity, record_heartbeat, worker_stats

Queue = Callable[..., str]
RunOf = Callable[[str], Any]
Claimed = leases.Claim | gang.MemberLease | None
TryClaim = Callable[..., Claimed]


@pytest.fixture
def alive(database: Database) -> Callable[..., None]:
    """Workers that show signs of life."""

    def register(*names: str, **facts: Any) -> None:
        facts = {"offers": ("cpu", "gpu"), "home": "here", **facts}
        with database.session() as session:
            for name in names:
                record_heartbeat(session, WorkerIdentity(name, "host", 1, 1, ("a device",), **facts))

    return register


@pytest.fixture
def try_claim(database: Database, alive: Callable[..., None]) -> TryClaim:
    """What a worker gets, if anything; w-1, w-2 and w-3 are alive."""
    alive("w-1", "w-2", "w-3")

    def claim(worker: str, **more: Any) -> Claimed:
        with database.session() as session:
            return db_queue.claim_next(session, worker, **more)

    return claim


@pytest.fixture
def check(database: Database) -> Callable[[Claimed], gang.Rendezvous | None]:
    def check_member(member: Claimed) -> gang.Rendezvous | None:
        assert isinstance(member, gang.MemberLease)
        with database.reading() as session:
            return gang.check_member_lease(session, member)

    return check_member


@pytest.fixture
def complete_gang(queue: Queue, try_claim: TryClaim) -> tuple[leases.Claim, list[gang.MemberLease]]:
    """A run of three that all have come to."""
    spread(queue, 3)
    members = [try_claim(worker) for worker in ("w-1", "w-2")]
    claim = try_claim("w-3")
    assert isinstance(claim, leases.Claim)
    return claim, [member for member in members if isinstance(member, gang.MemberLease)]


def spread(queue: Queue, nodes: int, **facts: Any) -> str:
    return queue(spec={"engine": {"nodes": nodes}}, **facts)


def count(database: Database) -> int:
    with database.reading() as session:
        return session.scalars(select(func.count()).select_from(GangMemberRow)).one()


def test_it_starts_when_the_last_worker_has_come(queue: Queue, try_claim: TryClaim, run_of: RunOf, check: Any) -> None:
    run_id = spread(queue, 3)
    first, second = try_claim("w-1"), try_claim("w-2")
    assert isinstance(first, gang.MemberLease)
    assert isinstance(second, gang.MemberLease)
    assert (run_of(run_id).state, run_of(run_id).attempt) == ("queued", 0)
    assert check(first) is None
    claim = try_claim("w-3")
    assert isinstance(claim, leases.Claim)
    assert (claim.run_id, claim.nodes, claim.node) == (run_id, 3, 0)
    run = run_of(run_id)
    assert (run.state, run.attempt, run.lease_owner) == ("running", 1, "w-3")
    assert check(first) is None, "node 0 makes the folder ready first"


def test_the_others_are_called(database: Database, complete_gang: Any, check: Any) -> None:
    claim, members = complete_gang
    with database.session() as session:
        gang.set_rendezvous(session, claim, "10.0.0.3:4711")
    calls = [check(member) for member in members]
    assert [(call.address, call.claim.node, call.claim.worker) for call in calls] == [
        ("10.0.0.3:4711", 1, "w-1"),
        ("10.0.0.3:4711", 2, "w-2"),
    ]
    assert {(call.claim.token, call.claim.attempt, call.claim.nodes) for call in calls} == {(claim.token, 1, 3)}


def test_a_worker_sits_at_a_run_once_and_goes_on_to_others(queue: Queue, try_claim: TryClaim) -> None:
    run_id, other = spread(queue, 2), queue()
    assert isinstance(try_claim("w-1"), gang.MemberLease)
    second = try_claim("w-1")
    assert isinstance(second, leases.Claim)
    assert second.run_id == other
    assert try_claim("w-1") is None
    last = try_claim("w-2")
    assert isinstance(last, leases.Claim)
    assert last.run_id == run_id


def test_a_seat_cannot_be_given_up_once_all_have_come(database: Database, complete_gang: Any) -> None:
    _, (first, _) = complete_gang
    with database.session() as session:
        assert not gang.release_member(session, first, only_waiting=True)
        assert gang.release_member(session, first)


def test_a_worker_that_died_while_it_waited_is_not_counted(queue: Queue, try_claim: TryClaim, alive: Any) -> None:
    spread(queue, 2)
    alive("dead")
    assert isinstance(try_claim("dead", lease_seconds=-1.0), gang.MemberLease)
    assert isinstance(try_claim("w-1"), gang.MemberLease)
    assert isinstance(try_claim("w-2"), leases.Claim)


@pytest.mark.parametrize("row_is_there", [True, False])
def test_a_worker_whose_heartbeats_stopped_while_it_waited_is_not_counted(
    database: Database, queue: Queue, try_claim: TryClaim, check: Any, row_is_there: bool
) -> None:
    """Its membership has not expired yet, and it would not start its node."""
    spread(queue, 2)
    killed = try_claim("w-1", lease_seconds=240.0)
    with database.session() as session:
        worker = session.get_one(Worker, "w-1")
        worker.seen_at -= timedelta(minutes=1)
        if not row_is_there:
            session.delete(worker)
    assert isinstance(try_claim("w-2"), gang.MemberLease)
    with pytest.raises(leases.StaleLease):
        check(killed)
    assert isinstance(try_claim("w-3"), leases.Claim)


def test_a_seat_is_renewed(database: Database, queue: Queue, try_claim: TryClaim) -> None:
    spread(queue, 2)
    member = try_claim("w-1", lease_seconds=-1.0)
    assert isinstance(member, gang.MemberLease)
    with database.session() as session:
        gang.renew_member_lease(session, member, 30.0)
    assert isinstance(try_claim("w-2"), leases.Claim)


@pytest.mark.parametrize("verb", ["cancel_run", "pause_run"])
def test_who_waits_learns_that_the_run_was_withdrawn(
    database: Database, queue: Queue, try_claim: TryClaim, check: Any, verb: str
) -> None:
    run_id = spread(queue, 2)
    member = try_claim("w-1")
    with database.session() as session:
        getattr(db_runs, verb)(session, run_id)
    with pytest.raises(leases.StaleLease):
        check(member)


def test_the_end_of_the_lease_is_the_end_for_all_and_all_may_come_again(
    database: Database, complete_gang: Any, try_claim: TryClaim, check: Any
) -> None:
    claim, members = complete_gang
    with database.session() as session:
        leases.release_lease(session, claim)
    for member in members:
        with pytest.raises(leases.StaleLease):
            check(member)
    assert try_claim("w-1") is None, "its process of the first attempt may still live"
    with database.session() as session:
        for member in members:
            assert gang.release_member(session, member)
    again = [try_claim(worker) for worker in ("w-3", "w-1", "w-2")]
    assert [type(each) for each in again] == [gang.MemberLease, gang.MemberLease, leases.Claim]
    with database.session() as session, pytest.raises(leases.StaleLease):
        gang.record_member_exit(session, members[0], None)
    assert check(again[0]) is None


def test_node_0_learns_how_the_others_ended(database: Database, complete_gang: Any) -> None:
    claim, (first, second) = complete_gang

    def told() -> tuple[list[gang.MemberFailure], bool]:
        with database.reading() as session:
            return gang.member_failures(session, claim)

    assert told() == ([], False)
    with database.session() as session:
        gang.record_member_exit(session, first, None)
    assert told() == ([], False)
    loss = gang.MemberFailure("w-2", "it broke", reason={"code": "crash", "message": "it broke"})
    with database.session() as session:
        gang.record_member_exit(session, second, loss)
    assert told() == ([loss], True)


def test_a_worker_that_shows_no_life_is_lost(database: Database, complete_gang: Any) -> None:
    claim, (first, second) = complete_gang
    with database.session() as session:
        gang.renew_member_lease(session, first, -1.0)
        gang.release_member(session, second)
    with database.reading() as session:
        found, complete = gang.member_failures(session, claim)
    assert complete
    assert [(loss.worker, loss.uses_attempt) for loss in found] == [("w-1", True), ("", False)]
    assert "worker w-1, node 1 of the run, was lost" in found[0].message


def test_racing_workers_fill_each_run_once(database: Database, queue: Queue, run_of: RunOf, alive: Any) -> None:
    """All workers go to one gang, whatever the order in which they come: none waits for the workers of the other."""
    runs = [spread(queue, 3), spread(queue, 3)]
    names = [f"w-{number}" for number in range(6)]
    alive(*names)
    found: list[Claimed] = []
    together = threading.Barrier(6)

    def work(name: str) -> None:
        together.wait(60)
        with database.session() as session:
            found.append(db_queue.claim_next(session, name))

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    claims = [taken for taken in found if isinstance(taken, leases.Claim)]
    assert sorted(claim.run_id for claim in claims) == sorted(runs)
    assert [run_of(run_id).attempt for run_id in runs] == [1, 1]
    with database.reading() as session:
        members = session.execute(select(GangMemberRow.run_id, GangMemberRow.number)).tuples().all()
    assert sorted(members) == sorted((run_id, number) for run_id in runs for number in range(3))


def test_a_deleted_run_takes_its_seats_along(database: Database, complete_gang: Any, tmp_path: Path) -> None:
    claim, _ = complete_gang
    complete_run.complete_run(database, claim, complete_run.RunCancelled(), tmp_path, tmp_path, 1.0)
    with database.session() as session:
        db_runs.delete_run(session, claim.run_id)
    assert count(database) == 0


def test_seats_show_among_what_workers_do(database: Database, queue: Queue, try_claim: TryClaim) -> None:
    run_id = spread(queue, 2)

    def at_work() -> tuple[int, dict[str, str | None]]:
        with database.reading() as session:
            return worker_stats(session).slots_used, {row.id: row.current_run for row in db_runs.list_workers(session)}

    try_claim("w-1")
    assert at_work() == (1, {"w-1": run_id, "w-2": None, "w-3": None})
    claim = try_claim("w-2")
    assert at_work() == (2, {"w-1": run_id, "w-2": run_id, "w-3": None})
    assert isinstance(claim, leases.Claim)
    with database.session() as session:
        leases.release_lease(session, claim)
    assert at_work()[1] == {"w-1": None, "w-2": None, "w-3": None}


def test_too_few_workers_are_an_obstacle(database: Database, queue: Queue, run_of: RunOf) -> None:
    run_id = spread(queue, 3, resource="gpu")
    offers: dict[str, tuple[str, ...]] = {"w-1": ("cpu", "gpu"), "w-2": ("gpu",), "w-3": ("cpu",)}
    with database.session() as session:
        for name, offered in offers.items():
            devices = (f"GPU-{name}",) if "gpu" in offered else ()
            record_heartbeat(session, WorkerIdentity(name, "host", 1, 1, ("a device",), offered, devices))
    with database.reading() as session:
        told = db_runs.blocked_reasons(session, [run_of(run_id)])[run_id]
    assert told["code"] == "too_few_workers"
    assert "takes 3 workers at once, and only 2 can serve it" in told["message"]
    with database.session() as session:
        session.get_one(Worker, "w-3").seen_at -= timedelta(minutes=5)
        record_heartbeat(session, WorkerIdentity("w-4", "host", 1, 1, ("a device",), ("gpu",), ("GPU-4",)))
    with database.reading() as session:
        assert db_runs.blocked_reasons(session, [run_of(run_id)]) == {}


def test_one_node_says_nothing_in_the_spec(queue: Queue, run_of: RunOf) -> None:
    plain, one, two = queue(), spread(queue, 1), spread(queue, 2)
    assert "nodes" not in run_of(plain).spec["engine"]
    assert run_of(plain).spec_hash == run_of(one).spec_hash != run_of(two).spec_hash
    assert [run_of(run_id).nodes for run_id in (plain, one, two)] == [1, 1, 2]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_the_last_worker_waits_for_one_that_is_leaving(
    database: Database, queue: Queue, try_claim: TryClaim, eventually: Callable[..., None]
) -> None:
    """Without that it would write to a row that is gone by then."""
    spread(queue, 3)
    first, second = try_claim("w-1"), try_claim("w-2")
    assert isinstance(first, gang.MemberLease)
    assert isinstance(second, gang.MemberLease)
    found: list[Claimed] = []
    last = threading.Thread(target=lambda: found.append(try_claim("w-3")))
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    with database.session() as leaving:
        assert gang.release_member(leaving, first, only_waiting=True)
        leaving.flush()
        last.start()

        def somebody_waits() -> bool:
            with database.reading() as session:
                return bool(session.execute(waiting).scalar_one())

        eventually(lambda: somebody_waits() or not last.is_alive(), "the wait of the last worker")
    last.join(60)
    assert isinstance(found[0], gang.MemberLease), "two of three have joined"
    assert count(database) == 2
