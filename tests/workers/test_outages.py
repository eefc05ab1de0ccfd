"""A run outlasts a database that is away."""

from __future__ import annotations

import time

import pytest

from lcl_core.db.leases import COUNTED
from tests.chaos.activity_log import overlaps, read_activity
from tests.chaos.tcp_proxy import TcpProxy

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
