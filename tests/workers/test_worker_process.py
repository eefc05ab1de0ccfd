"""Real worker processes on a real broker: wake-ups lost and doubled, workers killed, cancels, orderly ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.broker import EmbeddedBroker
from lcl_core.runs import store
from lcl_core.runs.database import Database
from lcl_core.runs.doorbell import Doorbell
from workers.settings import WorkerSettings

Queue = Callable[..., str]
RunOf = Callable[[str], Any]
Steps = Callable[[str], list[int]]
Eventually = Callable[..., None]
ENTRY = """
from workers.logs import configure_logs
from workers.settings import WorkerSettings
from workers.worker import WorkerProcess

configure_logs("json")
WorkerProcess(WorkerSettings(), dict.fromkeys(("pretrain", "evaluate", "index"), "toy_run")).run()
"""


class Crew:
    """Starts workers; whatever still lives at the end of the test is killed."""

    def __init__(self, settings: WorkerSettings, broker: EmbeddedBroker, logs: Path) -> None:
        self._environment = {
            **os.environ,
            "LCL_HOME": str(settings.home),
            "LCL_DATABASE_URL": settings.database_url,
            "LCL_BROKER_URL": broker.url,
            "LCL_LEASE_SECONDS": "2",
            "LCL_HEARTBEAT_SECONDS": "0.3",
            "LCL_WATCH_SECONDS": "0.05",
            "LCL_REAP_SECONDS": "0.3",
            "LCL_PING_SECONDS": "0.3",
        }
        self._logs = logs
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, **environment: str) -> subprocess.Popen[bytes]:
        with self.log(len(self.started)).open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-c", ENTRY],
                env={**self._environment, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.started.append(worker)
        return worker

    def log(self, number: int) -> Path:
        return self._logs / f"worker-{number}.log"

    def end(self) -> None:
        for worker in self.started:
            worker.kill()
            worker.wait()


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with tempfile.TemporaryDirectory(prefix="lcl-") as folder, EmbeddedBroker(Path(folder)) as broker:
        yield broker


@pytest.fixture
def doorbell(broker: EmbeddedBroker) -> Iterator[Doorbell]:
    doorbell = Doorbell(broker.url)
    yield doorbell
    doorbell.close()


@pytest.fixture
def crew(settings: WorkerSettings, modules: dict[str, str], broker: EmbeddedBroker, tmp_path: Path) -> Iterator[Crew]:
    crew = Crew(settings, broker, tmp_path)
    yield crew
    crew.end()


@pytest.fixture
def consuming(database: Database, eventually: Eventually) -> Callable[[int], None]:
    """Wait until so many workers have proved that they consume messages."""

    def wait(count: int) -> None:
        def proved() -> bool:
            with database.reading() as session:
                return sum(worker.consumed_at is not None for worker in store.list_workers(session)) >= count

        eventually(proved, f"{count} consuming workers")

    return wait


def test_wake_ups_once_twice_and_never(
    crew: Crew,
    doorbell: Doorbell,
    queue: Queue,
    run_of: RunOf,
    eventually: Eventually,
    consuming: Callable[[int], None],
) -> None:
    crew.start()
    consuming(1)
    runs = [queue() for _ in range(4)]
    for run_id in (runs[0], runs[1], runs[1], runs[1], "run_unknown"):
        assert doorbell.ring(run_id)
    unrung = queue()
    for run_id in (*runs, unrung):
        eventually(lambda run_id=run_id: run_of(run_id).state == "succeeded")
        assert run_of(run_id).attempt == 1


def test_a_broker_that_is_down_delays_nothing_and_is_found_again(
    crew: Crew,
    broker: EmbeddedBroker,
    doorbell: Doorbell,
    database: Database,
    queue: Queue,
    run_of: RunOf,
    eventually: Eventually,
    consuming: Callable[[int], None],
) -> None:
    crew.start()
    consuming(1)
    broker.stop()
    run_id = queue()
    assert doorbell.ring(run_id) is False
    eventually(lambda: run_of(run_id).state == "succeeded")

    def consumed_at() -> Any:
        with database.reading() as session:
            return store.list_workers(session)[0].consumed_at

    before = consumed_at()
    broker.start()
    eventually(lambda: consumed_at() > before, "consumption after the broker's return")


@pytest.mark.parametrize("settings", ["sqlite", "postgresql"], indirect=True)
def test_a_worker_killed_in_the_middle_loses_nothing(
    crew: Crew,
    doorbell: Doorbell,
    queue: Queue,
    run_of: RunOf,
    steps_of: Steps,
    eventually: Eventually,
    alive: Callable[[int], bool],
) -> None:
    crew.start(TOY_SECONDS="0.2")
    run_id = queue(steps=60)
    doorbell.ring(run_id)
    eventually(lambda: len(steps_of(run_id)) >= 6)
    pid = run_of(run_id).progress["pid"]
    crew.started[0].kill()
    eventually(lambda: not alive(pid), "the trainer's leaving")
    assert run_of(run_id).state == "running"
    crew.start()
    eventually(lambda: run_of(run_id).state == "succeeded")
    run = run_of(run_id)
    assert run.attempt == 2
    assert run.result["final"]["start"] >= 5
    assert steps_of(run_id) == list(range(1, 61))


def test_a_cancel_reaches_the_process(
    crew: Crew,
    doorbell: Doorbell,
    database: Database,
    queue: Queue,
    run_of: RunOf,
    steps_of: Steps,
    eventually: Eventually,
) -> None:
    crew.start()
    run_id = queue(steps=100_000)
    doorbell.ring(run_id)
    eventually(lambda: steps_of(run_id))
    with database.session() as session:
        store.request_cancel(session, run_id)
    eventually(lambda: run_of(run_id).state == "cancelled")


def test_a_worker_that_ends_in_order_hands_its_run_to_another(
    crew: Crew,
    doorbell: Doorbell,
    database: Database,
    queue: Queue,
    run_of: RunOf,
    steps_of: Steps,
    eventually: Eventually,
    consuming: Callable[[int], None],
) -> None:
    first = crew.start(TOY_SECONDS="1")
    run_id = queue(steps=100, max_attempts=1)
    doorbell.ring(run_id)
    eventually(lambda: steps_of(run_id))
    crew.start()
    consuming(2)
    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == 0
    eventually(lambda: run_of(run_id).state == "succeeded")
    run = run_of(run_id)
    assert (run.attempt, run.result["final"]["start"] > 0) == (1, True)
    assert steps_of(run_id) == list(range(1, 101))
    with database.reading() as session:
        assert len(store.list_workers(session)) == 1
    log = crew.log(0).read_text()
    assert f'"run": "{run_id}"' in log
    assert "Traceback" not in log


def test_a_worker_ends_in_order_while_the_broker_is_down(
    crew: Crew, broker: EmbeddedBroker, database: Database, consuming: Callable[[int], None]
) -> None:
    worker = crew.start()
    consuming(1)
    broker.stop()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    with database.reading() as session:
        assert store.list_workers(session) == []


def test_the_worker_process_never_imports_torch() -> None:
    code = "import workers.__main__, sys; print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'celery'" in loaded
    assert not [name for name in ("'torch'", "'transformers'", "'numpy'", "'fastapi'") if name in loaded]


@pytest.mark.parametrize(
    ("environment", "words"),
    [({"LCL_WORKER_SLOTS": "none"}, "LCL_WORKER_SLOTS"), ({"LCL_HOME": "/dev/null/home"}, "/dev/null/home")],
)
def test_a_bad_setting_is_one_line(environment: dict[str, str], words: str) -> None:
    command = [sys.executable, "-m", "workers"]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert "Traceback" not in done.stderr
