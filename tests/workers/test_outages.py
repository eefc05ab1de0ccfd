"""Runs outlast a database that is away, a machine that was suspended, and many lost workers."""

from __future__ import annotations

import os
import signal
import time

import pytest
from sqlalchemy import select

from lcl_core.db.leases import COUNTED
from lcl_core.db.models import Run
from lcl_core.db.session import now
from tests.chaos.activity_log import overlaps, read_activity
from tests.chaos.tcp_proxy import TcpProxy

# 90 gives the default lease and heartbeat of a service with PostgreSQL
OUTAGE_SECONDS = float(os.environ.get("OUTAGE_SECONDS", "8"))
KILLS = int(os.environ.get("KILLS", "3"))
pytestmark = [pytest.mark.e2e, pytest.mark.extended]


@pytest.fixture
def activity(tmp_path):
    return tmp_path / "activity.jsonl"


@pytest.mark.extended
@pytest.mark.parametrize("settings", ["postgresql"], indirect=True)
def test_after_an_outage_longer_than_a_lease_the_run_goes_on_from_its_last_step_uncounted(
    worker_processes, database, queue, run_of, steps_of, activity, eventually
):
    lease, steps = 15.0, 400  # on a busy machine a renewal takes seconds
    run_id = queue(steps=steps, checkpoint_every=1000, max_attempts=1)
    with TcpProxy(database.url) as proxy:
        for _ in range(2):
            worker_processes.start(
                LCL_DATABASE_URL=proxy.url,
                LCL_TOY_ACTIVITY=str(activity),
                LCL_TOY_SECONDS="0.1",
                LCL_LEASE_SECONDS=f"{lease:g}",
                LCL_HEARTBEAT_SECONDS="0.5",
            )
        eventually(lambda: steps_of(run_id), "the first steps")
        proxy.refuse()
        time.sleep(1.5 * lease)
        proxy.accept()
        eventually(lambda: run_of(run_id).state in ("succeeded", "failed"), "the end")
    run, spans = run_of(run_id), read_activity(activity)
    assert (run.state, run.attempt, COUNTED in (run.setbacks or {})) == ("succeeded", 1, False)
    assert len(spans) == 2
    assert overlaps(spans) == []
    assert run.result["final"]["start"] > 0, "it wrote a checkpoint when it was stopped"
    assert steps_of(run_id) == list(range(1, steps + 1))


@pytest.mark.extended
def test_a_suspended_machine_does_not_take_its_own_run_away(
    worker_processes, database, queue, run_of, steps_of, activity, eventually
):
    run_id = queue(steps=120, max_attempts=1)
    worker = worker_processes.start(
        LCL_TOY_ACTIVITY=str(activity),
        LCL_TOY_SECONDS="0.1",
        LCL_LEASE_SECONDS="3",
        LCL_HEARTBEAT_SECONDS="0.7",
        LCL_WATCH_SECONDS="1.5",  # so that the check for expired leases comes before the job's monitor
        LCL_REAP_SECONDS="0.1",
    )
    eventually(lambda: steps_of(run_id), "the first steps")
    job = run_of(run_id).progress["pid"]
    os.kill(worker.pid, signal.SIGSTOP)
    os.killpg(job, signal.SIGSTOP)

    def expired():
        with database.reading() as session:
            expires = session.scalars(select(Run.lease_expires_at).where(Run.id == run_id)).one()
            return expires is not None and expires < now(session)

    eventually(expired, "the end of the lease")
    os.killpg(job, signal.SIGCONT)
    os.kill(worker.pid, signal.SIGCONT)
    eventually(lambda: run_of(run_id).state in ("succeeded", "failed"), "the end")
    run = run_of(run_id)
    assert (run.state, run.attempt) == ("succeeded", 1), "the job was killed, and its attempt not counted"
    assert overlaps(read_activity(activity)) == []
    assert steps_of(run_id) == list(range(1, 121))
