"""Real worker processes on a real broker: wake-ups lost and doubled, workers killed, cancels, orderly ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from datetime import timedelta

import pytest
import redis

from lcl_core.db import runs as db_runs
from lcl_core.db.models import Worker
from lcl_core.db.session import now
from lcl_core.db.wakeup import QUEUE
from tests.fake_nvidia_smi import gpu_id, install, listing


@pytest.fixture
def alive_workers(database, eventually):
    """Wait until so many workers have registered."""

    def wait(count):
        def registered():
            with database.reading() as session:
                return len(db_runs.list_workers(session)) >= count

        eventually(registered, f"{count} workers")

    return wait


def test_wake_ups_once_twice_and_never(worker_processes, wakeup_producer, queue, run_of, eventually, alive_workers):
    worker_processes.start()
    alive_workers(1)
    runs = [queue() for _ in range(4)]
    for run_id in (runs[0], runs[1], runs[1], runs[1], "run_unknown"):
        assert wakeup_producer.wake(run_id)
    unannounced = queue()
    for run_id in (*runs, unannounced):
        eventually(lambda run_id=run_id: run_of(run_id).state == "succeeded")
        assert run_of(run_id).attempt == 1


@pytest.mark.extended
def test_a_broker_that_is_down_delays_nothing_and_is_found_again(
    worker_processes, broker, wakeup_producer, queue, run_of, eventually, alive_workers
):
    worker_processes.start(LCL_REAP_SECONDS="5")
    alive_workers(1)
    broker.stop()
    run_id = queue()
    assert wakeup_producer.wake(run_id) is False
    eventually(lambda: run_of(run_id).state == "succeeded")
    broker.start()
    assert wakeup_producer.wake(None)
    with redis.Redis(unix_socket_path=str(broker.socket)) as server:
        eventually(lambda: server.llen(QUEUE) == 0, "consumption after the broker's return")


@pytest.mark.parametrize("settings", ["sqlite", "postgresql"], indirect=True)
def test_a_worker_killed_in_the_middle_loses_nothing(
    worker_processes, wakeup_producer, queue, run_of, steps_of, eventually, alive
):
    worker_processes.start(LCL_TOY_SECONDS="0.2")
    run_id = queue(steps=60)
    wakeup_producer.wake(run_id)
    eventually(lambda: len(steps_of(run_id)) >= 6)
    pid = run_of(run_id).progress["pid"]
    worker_processes.started[0].kill()
    eventually(lambda: not alive(pid), "the trainer's leaving")
    assert run_of(run_id).state == "running"
    worker_processes.start()
    eventually(lambda: run_of(run_id).state == "succeeded")
    run = run_of(run_id)
    assert run.attempt == 2
    assert run.result["final"]["start"] >= 5
    assert steps_of(run_id) == list(range(1, 61))


def test_a_worker_that_ends_in_order_hands_its_run_to_another(
    worker_processes, wakeup_producer, database, queue, run_of, steps_of, eventually, alive_workers
):
    first = worker_processes.start(LCL_TOY_SECONDS="1")
    run_id = queue(steps=100, max_attempts=1)
    wakeup_producer.wake(run_id)
    eventually(lambda: steps_of(run_id))
    worker_processes.start()
    alive_workers(2)
    first.send_signal(signal.SIGTERM)
    assert first.wait(180) == 0
    eventually(lambda: run_of(run_id).state == "succeeded")
    run = run_of(run_id)
    assert (run.attempt, run.result["final"]["start"] > 0) == (1, True)
    assert steps_of(run_id) == list(range(1, 101))
    with database.reading() as session:
        assert len(db_runs.list_workers(session)) == 1
    log = worker_processes.log(0).read_text()
    assert f'"run": "{run_id}"' in log
    assert "Traceback" not in log


@pytest.mark.extended
def test_a_run_waits_for_a_worker_that_offers_what_it_asks_for(
    worker_processes, database, queue, run_of, eventually, tmp_path
):
    path = f"{install(tmp_path / 'programs', listing(1))}:{os.environ['PATH']}"
    worker_processes.start(LCL_WORKER_OFFERS="cpu", CUDA_VISIBLE_DEVICES="0", PATH=path)
    choosy, modest = queue(resource="gpu", priority=9), queue(resource="cpu")
    eventually(lambda: run_of(modest).state == "succeeded")
    assert run_of(modest).result["final"]["environment"]["CUDA_VISIBLE_DEVICES"] == "", "another run may need the GPU"
    with database.reading() as session:
        assert db_runs.blocked_reasons(session, [run_of(choosy)])[choosy]["message"].startswith("no worker offers gpu")
    worker_processes.start(LCL_WORKER_OFFERS="gpu", CUDA_VISIBLE_DEVICES="0", PATH=path)
    eventually(lambda: run_of(choosy).state == "succeeded")
    assert run_of(choosy).result["final"]["environment"]["CUDA_VISIBLE_DEVICES"] == gpu_id(0)
    assert run_of(choosy).attempt == 1


@pytest.mark.parametrize(("seconds", "status"), [(1, 0), (60, 1)])
def test_its_health_is_that_of_a_worker_of_its_host_seen_lately(database, settings, seconds, status):
    with database.session() as session:
        moment = now(session) - timedelta(seconds=seconds)
        facts = {"pid": 1, "devices": [], "started_at": moment, "seen_at": moment}
        session.add(Worker(id="w", host=socket.gethostname(), **facts))
        session.add(Worker(id="v", host="elsewhere", **facts | {"seen_at": now(session)}))
    command = [sys.executable, "-m", "workers", "--check"]
    environment = {**os.environ, "LCL_HOME": str(settings.home), "LCL_DATABASE_URL": database.url}
    assert subprocess.run(command, env=environment, check=False).returncode == status


def test_the_worker_process_never_imports_torch():
    code = "import workers.__main__, sys; print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'celery'" in loaded
    assert not [name for name in ("'torch'", "'transformers'", "'numpy'", "'fastapi'", "'ray'") if name in loaded]


@pytest.mark.parametrize(
    ("environment", "words", "status"),
    [
        ({"LCL_WORKER_OFFERS": "cpu,tpu"}, "LCL_WORKER_OFFERS", 2),
        ({"LCL_WORKER_SLOT": "2"}, "did you mean LCL_WORKER_SLOTS?", 2),
        ({"LCL_HOME": "/dev/null/home"}, "/dev/null/home", 1),
    ],
)
def test_a_bad_setting_is_one_line(environment, words, status):
    command = [sys.executable, "-m", "workers"]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert "Traceback" not in done.stderr
