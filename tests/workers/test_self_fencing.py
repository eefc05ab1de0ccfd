"""A worker whose database stops answering ends its job before the lease runs out; nobody works beside it."""

from __future__ import annotations

import os
import threading
import time
from contextlib import ExitStack, contextmanager, suppress

import pytest
from sqlalchemy import text

from lcl_core.db import submit as db_submit
from tests.chaos.activity_log import overlaps, read_activity
from tests.chaos.tcp_proxy import TcpProxy

TRIALS = int(os.environ.get("FENCING_TRIALS", "3"))
LEASE_SECONDS = 3.0
pytestmark = [pytest.mark.extended, pytest.mark.e2e, pytest.mark.parametrize("settings", ["postgresql"], indirect=True)]


@pytest.fixture
def activity(tmp_path):
    return tmp_path / "activity.jsonl"


@pytest.fixture
def long_run(database):
    """Submit a run that outlasts the trials, some of which end its attempt before a checkpoint; returns its id."""

    def submit():
        with database.session() as session:
            spec = {"steps": 100_000, "checkpoint_every": 5}
            return db_submit.submit(session, "pretrain", spec, max_attempts=10 * TRIALS).id

    return submit


def start(worker_processes, activity, **environment):
    """Returns: the worker's pid."""
    lease = {"LCL_LEASE_SECONDS": f"{LEASE_SECONDS:g}", "LCL_HEARTBEAT_SECONDS": "0.5"}
    return worker_processes.start(**lease, LCL_TOY_ACTIVITY=str(activity), **environment).pid


@contextmanager
def recorded_expiries(database, run_id):
    """{lease token: when the lease ran out at the latest, on the monotonic clock}, as the row said."""
    found: dict[str, float] = {}
    over = threading.Event()

    def watch():
        while not over.wait(0.02):
            with suppress(Exception), database.reading() as session:
                query = text("SELECT lease_token, lease_expires_at FROM run WHERE id = :id")
                token, expires = session.execute(query, {"id": run_id}).one()
                if token is not None:
                    found[token] = expires.timestamp() - time.time() + time.monotonic()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def test_a_black_hole_in_front_of_the_database_ends_the_job_within_its_lease(
    worker_processes, database, long_run, run_of, activity, eventually
):
    run_id = long_run()
    with ExitStack() as stack:
        expiries = stack.enter_context(recorded_expiries(database, run_id))
        proxies = {}
        for _ in range(2):
            proxy = stack.enter_context(TcpProxy(database.url))
            proxies[start(worker_processes, activity, LCL_DATABASE_URL=proxy.url)] = proxy
        attempts = 0
        for trial in range(TRIALS):
            eventually(lambda before=attempts: len(read_activity(activity)) > before, "the next attempt")
            time.sleep(0.13 * (trial % 10))  # another phase of the heartbeat each time
            eventually(lambda: run_of(run_id).lease_token, "a lease")  # a busy machine may have ended it in time
            spans, holder = read_activity(activity), run_of(run_id)
            attempts = len(spans)
            [proxy] = [proxy for pid, proxy in proxies.items() if f"-{pid}-" in holder.lease_owner]
            proxy.swallow_replies()
            eventually(
                lambda before=holder: run_of(run_id).lease_owner not in (None, before.lease_owner), "a successor"
            )
            proxy.forward_replies()
            ended = next(span for span in read_activity(activity) if span.began == spans[-1].began)
            assert ended.seen < expiries[holder.lease_token], "the job outlived its lease"
    assert overlaps(read_activity(activity)) == []
    assert len(read_activity(activity)) >= TRIALS
