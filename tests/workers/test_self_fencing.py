"""A worker whose database stops answering ends its job before the lease runs out; nobody works beside it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import combinations
from pathlib import Path

import pytest
from sqlalchemy import text

from lcl_core.db import submit as db_submit
from lcl_core.db.session import Database
from tests.chaos.activity_log import ActivitySpan, read_activity
from tests.workers.tcp_proxy import TcpProxy
from tests.workers.worker_processes import WorkerProcesses

TRIALS = int(os.environ.get("FENCING_TRIALS", "2"))
LEASE_SECONDS = 3.0
IN_SIGHT_SECONDS = 60.0  # for a busy machine; a job that nobody ends works longer
pytestmark = [pytest.mark.e2e, pytest.mark.parametrize("settings", ["postgresql"], indirect=True)]


@pytest.fixture
def activity(tmp_path: Path) -> Path:
    return tmp_path / "activity.jsonl"


@pytest.fixture
def long_run(database: Database) -> Callable[[], str]:
    """Submit a run that outlasts the trial; returns its id."""

    def submit() -> str:
        with database.session() as session:
            return db_submit.submit(session, "pretrain", {"steps": 100_000, "checkpoint_every": 5}).id

    return submit


def start(crew: WorkerProcesses, activity: Path, **environment: str) -> None:
    lease = {"LCL_LEASE_SECONDS": f"{LEASE_SECONDS:g}", "LCL_HEARTBEAT_SECONDS": "0.5"}
    crew.start(**lease, TOY_ACTIVITY=str(activity), **environment)


@contextmanager
def recorded_expiries(database: Database, run_id: str) -> Iterator[dict[str, float]]:
    """{lease token: when the lease ran out at the latest, on the monotonic clock}, as the row said."""
    found: dict[str, float] = {}
    over = threading.Event()

    def watch() -> None:
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


def overlaps(spans: list[ActivitySpan]) -> list[tuple[int, int]]:
    return [
        (one.pid, other.pid)
        for one, other in combinations(spans, 2)
        if min(one.seen, other.seen) > max(one.began, other.began)
    ]


def stop_backends(database: Database, name: str, stopped: set[int]) -> None:
    """SIGSTOP every backend of the connections with this application name."""
    with database.reading() as session:
        query = text("SELECT pid FROM pg_stat_activity WHERE application_name = :name")
        for pid in session.scalars(query, {"name": name}):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                stopped.add(pid)


@pytest.mark.parametrize("trial", range(TRIALS))
def test_a_black_hole_in_front_of_the_database_ends_the_job_within_its_lease(
    crew: WorkerProcesses,
    database: Database,
    long_run: Callable[[], str],
    activity: Path,
    eventually: Callable[..., None],
    trial: int,
) -> None:
    run_id = long_run()
    with TcpProxy(database.url) as proxy, recorded_expiries(database, run_id) as expiries:
        start(crew, activity, LCL_DATABASE_URL=proxy.url)
        eventually(lambda: read_activity(activity), "the first attempt")
        first = read_activity(activity)[0]
        (token,) = expiries
        start(crew, activity)  # with a connection of its own
        time.sleep(0.1 * (trial % 10))  # another phase of the heartbeat in each trial
        proxy.swallow_replies()
        eventually(lambda: len(read_activity(activity)) > 1, "the second attempt", IN_SIGHT_SECONDS)
        spans = read_activity(activity)
        assert spans[0].seen < expiries[token], "the job outlived its lease"
        assert spans[0].pid == first.pid
        assert overlaps(spans) == []


def test_a_stopped_backend_ends_the_job_within_its_lease(
    crew: WorkerProcesses,
    database: Database,
    long_run: Callable[[], str],
    activity: Path,
    eventually: Callable[..., None],
    alive: Callable[[int], bool],
) -> None:
    run_id, stopped = long_run(), set[int]()
    url = f"{database.url}{'&' if '?' in database.url else '?'}application_name=stopped-backends"

    def ended() -> bool:
        stop_backends(database, "stopped-backends", stopped)  # those of new connections too
        return not alive(first.pid)

    try:
        with recorded_expiries(database, run_id) as expiries:
            start(crew, activity, LCL_DATABASE_URL=url)
            eventually(lambda: read_activity(activity), "the first attempt")
            first = read_activity(activity)[0]
            (token,) = expiries
            eventually(ended, "the end of the job", IN_SIGHT_SECONDS)
            assert read_activity(activity)[0].seen < expiries[token], "the job outlived its lease"
            for pid in stopped:  # one of them may hold the lock on the run's row
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            start(crew, activity)
            eventually(lambda: len(read_activity(activity)) > 1, "the second attempt")
            assert overlaps(read_activity(activity)) == []
    finally:
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
