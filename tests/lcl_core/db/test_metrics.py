"""Counters kept in the database: once for what was committed, never for what was not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lcl_core.db import complete_run, leases, runs
from lcl_core.db.metrics import (
    ATTEMPTS,
    CLAIM_LATENCY,
    FAMILIES,
    RUN_DURATION,
    MetricSeries,
    read_counters,
    record_increments,
)
from lcl_core.db.session import Database, now
from lcl_core.db.workers import (
    QueueDepth,
    WorkerIdentity,
    longest_capacity_wait,
    queue_depths,
    record_heartbeat,
    record_wakeup,
    worker_stats,
)

Submit = Callable[..., str]
Take = Callable[..., leases.Claim]


def begun(database: Database, claimed: leases.Claim) -> leases.Claim:
    with database.session() as session:
        leases.begin_attempt(session, claimed, encoder_id=None, from_scratch=False)
    return claimed


def read(database: Database) -> dict[str, list[MetricSeries]]:
    with database.reading() as session:
        return read_counters(session)


def test_a_value_falls_into_the_first_bucket_that_holds_it(database: Database) -> None:
    values = (0.0, 0.01, 0.011, 86_400.0, 86_401.0)
    with database.session() as session:
        record_increments(session, [CLAIM_LATENCY.increment(value, kind="index") for value in values])
    (series,) = read(database)["lcl_claim_latency_seconds"]
    assert series.labels == {"kind": "index"}
    assert series.counts == {"0.01": 2, "0.025": 1, "86400": 1, "+Inf": 1}
    assert series.total == pytest.approx(sum(values))


def test_what_is_rolled_back_is_not_counted(database: Database) -> None:
    def fail() -> None:
        with database.session() as session:
            record_increments(session, [ATTEMPTS.increment(kind="index")])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert read(database) == {}


def test_counts_of_many_at_once_add_up(database: Database) -> None:
    """Several rows each, in orders that would block each other crosswise if they were not sorted."""
    kinds = ("index", "pretrain", "evaluate")
    together = threading.Barrier(3)

    def work(first: int) -> None:
        together.wait()
        for _ in range(10):
            with database.session() as session:
                record_increments(session, [ATTEMPTS.increment(kind=kinds[(first + at) % 3]) for at in range(3)])

    threads = [threading.Thread(target=work, args=(first,)) for first in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = {series.labels["kind"]: series.total for series in read(database)["lcl_run_attempts_total"]}
    assert found == dict.fromkeys(kinds, 30.0)


def test_a_runs_life_is_counted(database: Database, queue: Submit, claim: Take, tmp_path: Path) -> None:
    queue(max_attempts=2)
    queue("convert", {"path": "/data", "name": "d"})
    begun(database, claim(lease_seconds=-1.0))
    with database.session() as session:
        leases.expire_leases(session)
    lost = begun(database, claim(lease_seconds=-1.0))
    with database.session() as session:
        leases.renew_lease(session, lost, -1.0, ran_seconds=70.0)
    with database.session() as session:
        leases.expire_leases(session)  # the last attempt: the run has failed
    result = {"dataset": {"path": "artifacts/dataset"}, "skipped": {"no_image": 3, "bad_json": 2}}
    # it left no dataset
    complete_run.complete_run(
        database, begun(database, claim()), complete_run.RunSucceeded(result), tmp_path, tmp_path, 4.0
    )
    found = read(database)
    assert [(series.labels, series.total) for series in found["lcl_run_attempts_total"]] == [
        ({"kind": "convert"}, 1.0),
        ({"kind": "pretrain"}, 2.0),
    ]
    assert [series.total for series in found["lcl_lease_losses_total"]] == [2.0]
    ends = {(series.labels["kind"], series.labels["state"]): series for series in found["lcl_run_duration_seconds"]}
    assert set(ends) == {("pretrain", "failed"), ("convert", "failed")}
    assert ends["pretrain", "failed"].counts == {"300": 1}
    assert sum(sum(series.counts.values()) for series in found["lcl_claim_latency_seconds"]) == 3
    assert "lcl_quarantined_items_total" not in found, "a run that made nothing left nothing out"


def test_what_a_run_left_out_is_counted(database: Database, queue: Submit, claim: Take, tmp_path: Path) -> None:
    queue("validate", {"path": "/data"})
    complete_run.complete_run(
        database, claim(), complete_run.RunSucceeded({"report": {"quarantined": 7}}), tmp_path, tmp_path, 1.0
    )
    queue("convert", {"path": "/data", "name": "d", "to": "s3://b/d"})
    facts = {"content_hash": "0" * 64}
    result = {"dataset": facts, "skipped": {"no_image": 3, "bad_json": 2}}
    complete_run.complete_run(database, claim(), complete_run.RunSucceeded(result), tmp_path, tmp_path, 1.0)
    found = {series.labels["kind"]: series.total for series in read(database)["lcl_quarantined_items_total"]}
    assert found == {"validate": 7.0, "convert": 5.0}


def test_latency_counts_from_when_the_run_could_be_taken(database: Database, queue: Submit, claim: Take) -> None:
    """Not from its submission: what another worker did with it meanwhile was no waiting."""
    run_id = queue()
    held = claim()
    with database.session() as session:
        runs.get_run(session, run_id).queued_at -= timedelta(hours=1)
        leases.release_lease(session, held)
    begun(database, claim())
    (series,) = read(database)["lcl_claim_latency_seconds"]
    assert series.total < 600


def test_a_family_names_its_labels_and_its_bounds_rise() -> None:
    with pytest.raises(AssertionError, match="lcl_run_duration_seconds"):
        RUN_DURATION.increment(1.0, kind="index")
    for family in FAMILIES:
        assert list(family.bounds) == sorted(set(family.bounds))
        assert family.name.endswith("_seconds" if family.bounds else "_total")


def test_a_run_without_capacity_waits_from_when_it_was_queued_until_its_processes_start(
    database: Database, queue: Submit, claim: Take
) -> None:
    """Each round makes it ready anew, so the age of the queue does not show it."""

    def waited() -> float:
        with database.reading() as session:
            return longest_capacity_wait(session)

    def hand_back(code: str, **facts: Any) -> None:
        with database.session() as session:
            leases.release_lease(session, held, code=code, **facts)

    run_id = queue()
    with database.session() as session:
        runs.get_run(session, run_id).ready_at = now(session) - timedelta(hours=5)
    held = claim()
    assert waited() == 0
    for _ in range(2):
        hand_back(leases.NO_CAPACITY)
        assert waited() == pytest.approx(5 * 3600, abs=300)
        held = claim()
        assert waited() == pytest.approx(5 * 3600, abs=300), "while a worker tries again"
    with database.session() as session:
        leases.renew_lease(session, held, ran_seconds=0.0)
    assert waited() > 0, "its processes have not started"
    with database.session() as session:
        leases.renew_lease(session, held, ran_seconds=0.5)
    assert waited() == 0
    hand_back("machine_lost")
    held = claim()
    hand_back(leases.NO_CAPACITY)
    assert waited() < 300, "the time of its work is no waiting"
    with database.session() as session:
        runs.pause_run(session, run_id)
    assert waited() == 0
    with database.session() as session:
        runs.unpause_run(session, run_id)
    assert waited() == 0


def test_the_queue_by_kind_and_who_works(database: Database, queue: Submit, claim: Take) -> None:
    first, *_ = [queue() for _ in range(3)]
    queue("validate", {"path": "/data"})
    queue(resource="gpu")
    with database.session() as session:
        runs.get_run(session, first).ready_at = now(session) - timedelta(minutes=5)
        for name, slots in (("w-1", 2), ("w-2", 3)):
            record_heartbeat(session, WorkerIdentity(name, "host", 1, slots, ("cpu",)))
        session.flush()
        record_wakeup(session, "w-1")
    with database.session() as session:
        from lcl_core.db.models import Worker

        session.get_one(Worker, "w-2").seen_at -= timedelta(minutes=1)
    with database.reading() as session:
        found = queue_depths(session)
    assert [(each.kind, each.resource, each.depth) for each in found] == [
        ("pretrain", "accelerator", 3),
        ("pretrain", "gpu", 1),
        ("validate", "cpu", 1),
    ]
    assert 300 <= found[0].oldest_seconds < 900
    assert isinstance(found[1], QueueDepth)
    assert found[1].oldest_seconds < 300
    claim("w-1")
    with database.reading() as session:
        at_work = worker_stats(session)
    assert (at_work.workers, at_work.slots, at_work.slots_used) == (1, 2, 1)
    assert at_work.consumed_seconds is not None
    assert at_work.consumed_seconds < 300
