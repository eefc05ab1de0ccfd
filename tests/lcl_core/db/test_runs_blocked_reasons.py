"""A queued run says why nobody can take it, and says nothing when somebody can."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from lcl_core.db import leases, runs
from lcl_core.db.models import Worker
from lcl_core.db.session import Database
from lcl_core.db.workers import WorkerIdentity, record_heartbeat

Queue = Callable[..., str]


@pytest.fixture
def reasons(database: Database) -> Callable[[], dict[str, tuple[str, str]]]:
    """Code and message by run."""

    def look() -> dict[str, tuple[str, str]]:
        with database.reading() as session:
            found = runs.blocked_reasons(session, runs.list_runs(session).items)
        return {run_id: (facts["code"], facts["message"]) for run_id, facts in found.items()}

    return look


def show(database: Database, name: str, *offers: str, seen_ago: float = 0.0) -> None:
    with database.session() as session:
        record_heartbeat(session, WorkerIdentity(name, "host", 1, 1, ("a device",), offers))
        session.flush()
        session.get_one(Worker, name).seen_at -= timedelta(seconds=seen_ago)


def test_it_names_what_is_missing(
    database: Database, queue: Queue, reasons: Callable[[], dict[str, tuple[str, str]]]
) -> None:
    anywhere, on_a_gpu, on_a_cpu = queue(), queue(resource="gpu"), queue(resource="cpu")
    assert {code for code, _ in reasons().values()} == {"no_worker"}
    show(database, "small", "cpu")
    show(database, "gone", "gpu", seen_ago=300.0)
    assert set(reasons()) == {on_a_gpu}
    code, message = reasons()[on_a_gpu]
    assert (code, message.partition(";")[0]) == ("no_resource", "no worker offers gpu")
    show(database, "big", "gpu")
    assert reasons() == {}
    show(database, "small", "cpu", seen_ago=300.0)
    assert {run_id: message.partition(";")[0] for run_id, (_, message) in reasons().items()} == {
        on_a_cpu: "no worker offers cpu"
    }
    assert anywhere not in reasons()


def test_a_run_at_work_or_at_its_end_has_no_obstacle(
    database: Database,
    queue: Queue,
    claim: Callable[..., leases.Claim],
    reasons: Callable[[], dict[str, tuple[str, str]]],
) -> None:
    queue()
    claim()
    with database.session() as session:
        runs.cancel_run(session, queue_ended := queue())
    assert queue_ended not in reasons()
    assert reasons() == {}
