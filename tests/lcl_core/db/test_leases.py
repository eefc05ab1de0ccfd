"""Claims and leases: one winner, guarded writes, lost workers."""

import threading
from collections import Counter

import pytest

from lcl_core.db import complete_run, leases, runs, states
from lcl_core.db import queue as db_queue
from lcl_core.db.session import now

EXPIRED = -1.0  # a lease this long is over when it begins


def expire(database):
    with database.session() as session:
        return [run.id for run in leases.expire_leases(session)]


def test_a_worker_takes_only_what_it_can_serve(database, queue):
    for_gpu, for_cpu, for_any = queue(resource="gpu", priority=2), queue(resource="cpu", priority=1), queue()
    reads = queue("validate", {"path": "/data"})

    def taken(*offers):
        devices = ("GPU-1", "GPU-2") if "gpu" in offers else ()
        with database.session() as session:
            claims = [db_queue.claim_next(session, "worker-1", offers=offers, devices=devices) for _ in range(5)]
            session.rollback()
        return [claim.run_id for claim in claims if claim is not None]

    assert taken("cpu", "gpu") == [for_gpu, for_cpu, for_any, reads]
    assert taken("cpu") == [for_cpu, for_any, reads]
    assert taken("gpu") == [for_gpu, for_any]


def test_racing_claimers_share_the_runs_and_double_none(database, queue):
    wanted = {queue() for _ in range(24)}
    won = []
    together = threading.Barrier(4)

    def work(name):
        together.wait()
        while True:
            with database.session() as session:
                claimed = db_queue.claim_next(session, name)
            if claimed is None:
                return
            won.append(claimed.run_id)

    threads = [threading.Thread(target=work, args=(f"worker-{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(won) == Counter(wanted)


def test_renewing_extends_the_lease_and_tells_the_state(database, queue, claim, run_of):
    run_id = queue()
    claimed = claim(lease_seconds=EXPIRED)
    with database.session() as session:
        assert leases.renew_lease(session, claimed, 30.0, ran_seconds=4.5) is states.State.RUNNING
    assert expire(database) == []
    with database.session() as session:
        runs.cancel_run(session, run_id)
    with database.reading() as session:
        assert leases.check_lease(session, claimed) is states.State.CANCELLING
    assert run_of(run_id).ran_seconds == 4.5


def test_every_write_of_a_stale_worker_is_discarded(database, queue, claim, run_of, tmp_path):
    run_id = queue()
    stale = claim("worker-1", EXPIRED)
    assert expire(database) == [run_id]
    owner = claim("worker-2")
    before = run_of(run_id)

    def write(action, *arguments):
        with database.session() as session:
            action(session, stale, *arguments)

    for action, arguments in (
        (leases.renew_lease, ()),
        (leases.check_lease, ()),
        (leases.record_metrics, ([{"step": 1}],)),
        (leases.release_lease, ()),
    ):
        with pytest.raises(leases.StaleLease):
            write(action, *arguments)
    with pytest.raises(leases.StaleLease):
        complete_run.complete_run(database, stale, complete_run.RunFailed({"code": "x"}), tmp_path, tmp_path, 1.0)
    after = run_of(run_id)
    assert (after.state, after.lease_token, after.lease_expires_at) == (
        "running",
        owner.token,
        before.lease_expires_at,
    )
    with database.reading() as session:
        assert runs.metrics_after(session, run_id) == []


def test_a_lost_worker_costs_an_attempt_and_the_last_one_the_run(database, queue, claim, run_of):
    run_id = queue(max_attempts=2)
    claim(lease_seconds=EXPIRED)
    assert expire(database) == [run_id]
    assert (run_of(run_id).state, run_of(run_id).attempt, run_of(run_id).lease_token) == ("queued", 1, None)
    assert claim("worker-9", EXPIRED).attempt == 2
    expire(database)
    run = run_of(run_id)
    assert (run.state, run.reason["code"]) == ("failed", "worker_lost")
    assert "worker-9" in run.reason["message"]
    assert run.finished_at is not None
    assert expire(database) == []


def test_losses_are_counted_since_the_last_new_checkpoint(database, queue, claim, run_of):
    run_id = queue(max_attempts=2)
    for number in range(1, 31):
        lost = claim(lease_seconds=EXPIRED)
        with database.session() as session:
            leases.record_checkpoint(session, lost, f"step_{10 * number:08d}")
        expire(database)
        assert (run_of(run_id).state, run_of(run_id).attempt) == ("queued", number)
    repeated = claim(lease_seconds=EXPIRED)
    with database.session() as session:
        leases.record_checkpoint(session, repeated, f"step_{300:08d}")  # no new one
    expire(database)
    run = run_of(run_id)
    assert (run.state, run.reason["code"]) == ("failed", "worker_lost")
    assert "2 attempts without a new checkpoint" in run.reason["message"]


def test_a_run_that_is_to_wait_is_not_claimed_before(database, queue, claim, run_of):
    run_id = queue()
    held = claim()
    with database.session() as session:
        leases.release_lease(session, held, code="nccl", delay_seconds=600.0)
    with database.session() as session:
        assert db_queue.claim_next(session, "worker-1") is None
        run = runs.get_run(session, run_id)
        assert (run.attempt, run.setbacks) == (0, {"nccl": 1})
        run.ready_at = now(session)
    assert claim().run_id == run_id


@pytest.mark.parametrize(("uses_attempt", "attempt"), [(False, 1), (True, 2)])
def test_handing_back_uses_an_attempt_only_when_told(database, queue, claim, run_of, uses_attempt, attempt):
    run_id = queue()
    held = claim()
    with database.session() as session:
        leases.release_lease(session, held, uses_attempt=uses_attempt)
    assert run_of(run_id).state == "queued"
    assert claim().attempt == attempt
