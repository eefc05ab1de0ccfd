"""A queued run says why nobody can take it, and says nothing when somebody can."""

from datetime import timedelta

import pytest

from lcl_core.db import leases, runs
from lcl_core.db import queue as db_queue
from lcl_core.db.models import Worker
from lcl_core.db.workers import WorkerIdentity, record_heartbeat


@pytest.fixture
def reasons(database):
    """Code and message by run."""

    def look():
        with database.reading() as session:
            found = runs.blocked_reasons(session, runs.list_runs(session).items)
        return {run_id: (facts["code"], facts["message"]) for run_id, facts in found.items()}

    return look


def show(database, name, *offers, seen_ago=0.0, gpus=1):
    devices = tuple(f"GPU-{name}-{number}" for number in range(gpus if "gpu" in offers else 0))
    with database.session() as session:
        record_heartbeat(session, WorkerIdentity(name, "host", 1, 1, ("a device",), offers, devices))
        session.flush()
        session.get_one(Worker, name).seen_at -= timedelta(seconds=seen_ago)


def test_it_names_what_is_missing(database, queue, reasons):
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


def test_it_says_how_many_gpus_are_missing(database, queue, reasons):
    strict, lenient = (queue(spec={"engine": {"processes": 8}}, resource=resource) for resource in ("gpu", None))
    show(database, "two", "cpu", "gpu", gpus=2)
    show(database, "four", "gpu", gpus=4)
    assert {code for code, _ in reasons().values()} == {"too_few_gpus"}
    expected = "the run needs 8 GPUs on one machine; the largest worker offers 4"
    assert reasons()[strict][1].partition("; start")[0] == expected
    assert set(reasons()) == {strict, lenient}
    show(database, "processor", "cpu")
    assert set(reasons()) == {strict}, "a worker without GPUs runs it on the processor"
    show(database, "eight", "gpu", gpus=8)
    assert reasons() == {}


def test_it_says_that_devices_are_busy_and_not_missing(database, queue, reasons):
    show(database, "w", "cpu", "gpu", gpus=4)
    devices = tuple(f"GPU-w-{number}" for number in range(4))
    queue(resource="gpu")

    def claim():
        with database.session() as session:
            return db_queue.claim_next(session, "w", 30.0, ("cpu", "gpu"), devices=devices)

    first = claim()
    assert first is not None
    waiting = queue(spec={"engine": {"processes": 4}}, resource="gpu")
    queue()
    assert set(reasons()) == {waiting}
    assert reasons()[waiting] == (
        "devices_busy",
        "waits for 4 GPUs; the worker with the most free ones has 3. It begins when other runs end",
    )
    assert claim() is None
    with database.session() as session:
        leases.release_lease(session, first)
    assert claim() is not None
