"""Shares between owners: fair at every claim, whatever comes and goes, and nobody waits for ever."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lcl_core.db import complete_run, leases
from lcl_core.db import queue as db_queue
from lcl_core.db import runs as db_runs
from lcl_core.db.models import Run
from lcl_core.db.session import Database

Queue = Callable[..., str]
Take = Callable[..., leases.Claim]


def owner_of(run_of: Callable[[str], Any], claim: leases.Claim) -> str:
    return str(run_of(claim.run_id).owner)


def end(database: Database, claim: leases.Claim, folder: Path) -> None:
    complete_run.complete_run(database, claim, complete_run.RunCancelled(), folder, folder, 1.0)


def test_one_run_does_not_wait_behind_a_hundred_of_another(
    queue: Queue, claim: Take, run_of: Callable[[str], Any]
) -> None:
    for _ in range(6):
        queue(owner="many")
    for _ in range(2):
        queue(owner="few")
    assert [owner_of(run_of, claim()) for _ in range(4)] == ["many", "few", "many", "few"]


def test_priority_goes_before_shares_and_waiting_time_after(queue: Queue, claim: Take) -> None:
    first, second = queue(owner="ada"), queue(owner="ada")
    third = queue(owner="bob")
    urgent = [queue(owner="ada", priority=1) for _ in range(2)]
    assert [claim().run_id for _ in range(5)] == [*urgent, third, first, second]


@pytest.fixture(params=["worker", "engine"])
def try_claim(request: pytest.FixtureRequest, database: Database) -> Callable[[], object]:
    """What a worker claims: one that runs processes itself, or one whose engine places them."""

    def claim_one() -> object:
        with database.session() as session:
            if request.param == "worker":
                return db_queue.claim_next(session, "w")
            room = db_queue.EngineCapacity(executor="ray", nodes=4, cpus=16.0, gpus=0.0, has_gpus=False)
            return db_queue.claim_for_engine(session, "w", 30.0, ("cpu", "gpu"), room)

    return claim_one


def test_a_run_being_paused_or_cancelled_still_counts(database: Database, queue: Queue, claim: Take) -> None:
    runs = [queue(owner="ada") for _ in range(2)]
    claim()
    with database.session() as session:
        db_runs.pause_run(session, runs[0])
    later = queue(owner="bob")
    assert claim().run_id == later


def test_every_claim_is_fair_and_every_owner_is_served(
    database: Database, queue: Queue, run_of: Callable[[str], Any], tmp_path: Path
) -> None:
    """Four slots, five owners of whom one submits most; runs end in any order."""
    chance = random.Random(7)
    owners = ["greedy", "greedy", "greedy", "greedy", "ann", "ben", "cat", "dan"]
    at_work: list[tuple[str, leases.Claim]] = []
    passed_over: Counter[str] = Counter()
    for _ in range(60):
        queue(owner=chance.choice(owners))
        if len(at_work) == 4:
            _, ended = at_work.pop(chance.randrange(4))
            end(database, ended, tmp_path)
        with database.session() as session:
            waiting = [run.owner for run in session.query(Run).filter(Run.state == "queued")]
            taken = db_queue.claim_next(session, "w")
        assert taken is not None
        shares, winner = Counter(owner for owner, _ in at_work), owner_of(run_of, taken)
        assert shares[winner] == min(shares[owner] for owner in waiting), "the smallest share goes first"
        at_work.append((winner, taken))
        passed_over.update(set(waiting) - {winner} - set(shares))
        passed_over[winner] = 0
        assert max(passed_over.values()) < 5, "who has nothing at work waits for at most the other owners"


def test_a_stream_of_others_starves_nobody(database: Database, queue: Queue, claim: Take, tmp_path: Path) -> None:
    """One slot, and a newcomer for every run that ends: all have nothing at work, so the longest wait decides."""
    mine = queue(owner="patient")
    order = []
    for number in range(5):
        queue(owner=f"newcomer-{number}")
        taken = claim()
        order.append(taken.run_id)
        end(database, taken, tmp_path)
    assert order[0] == mine
