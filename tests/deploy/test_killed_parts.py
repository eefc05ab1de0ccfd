"""Whatever part of the service is killed, it is started again and answers as before."""

import os
import signal
import tempfile
from pathlib import Path

import pytest

from deploy.local_stack import LocalStack
from deploy.process import responds

pytestmark = [pytest.mark.e2e, pytest.mark.extended]


@pytest.fixture(scope="module")
def said():
    return []


@pytest.fixture(scope="module")
def stack(said):
    with (
        tempfile.TemporaryDirectory(prefix="lcl-") as folder,
        LocalStack(Path(folder), said.append, ports=(0, 0)) as stack,
    ):
        yield stack


def works(stack):
    stack.check()
    return responds(f"{stack.api_url}/readyz") and responds(f"{stack.page_url}/healthz")


@pytest.mark.parametrize("part", ["broker", "api", "worker", "ui"])
def test_a_killed_part_is_started_again(stack, said, part, eventually):
    before, others = stack.pids(), {name: pid for name, pid in stack.pids().items() if name != part}
    said.clear()
    os.kill(before[part], signal.SIGKILL)
    eventually(lambda: stack.check() or stack.pids()[part] not in (None, before[part]), f"another process of {part}")
    eventually(lambda: works(stack), "the service")
    assert {name: pid for name, pid in stack.pids().items() if name != part} == others, "the other parts went on"
    assert len(said) == 2, said
    assert said[0].startswith(f"{part} was killed by SIGKILL")
    assert "\n" not in said[0]
    assert said[1] == f"{part} is started again"


def test_runs_that_were_queued_before_the_broker_died_are_worked_on(stack, eventually):
    with stack.client() as client:
        runs = [queued(client) for _ in range(3)]
        worker = stack.pids()["worker"]
        os.kill(stack.pids()["broker"], signal.SIGKILL)
        late = queued(client)
        eventually(lambda: works(stack), "the service")
        for run in (*runs, late):
            eventually(
                lambda run=run: stack.check() or client.run(run["id"])["state"] in ("succeeded", "failed"),
                "the end of a run",
            )
        assert [client.run(run["id"])["reason"] for run in (*runs, late)] == [None] * 4
    assert stack.pids()["worker"] == worker, "the worker outlives the broker"


def queued(client):
    return client.validate_dataset("sample", workers=1)
