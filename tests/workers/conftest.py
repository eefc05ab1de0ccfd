"""A home folder with a migrated database, settings in a hurry, and the toy as every kind's process."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from deploy.embedded_redis import EmbeddedBroker
from lcl_core.db import datasets, runs, studies
from lcl_core.db import submit as db_submit
from lcl_core.db.session import Database
from lcl_core.db.wakeup import WakeupProducer
from lcl_core.specs.parsing import parse_as
from lcl_core.specs.study import StudySpec
from tests.workers.in_process_worker import InProcessWorker
from tests.workers.worker_processes import WorkerProcesses
from workers.settings import WorkerSettings

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture
def modules(monkeypatch):
    """The module table that makes the toy the process of every kind."""
    monkeypatch.setenv("PYTHONPATH", f"{HERE}:{ROOT}")
    return dict.fromkeys(("pretrain", "evaluate", "index"), "toy_run")


@pytest.fixture
def settings(request, tmp_path):
    """On SQLite, unless the test is parametrised with ``settings`` = "postgresql" (indirect)."""
    on_postgres = getattr(request, "param", "sqlite") == "postgresql"
    return WorkerSettings(
        home=tmp_path / "home",
        data_roots=[HERE],
        database_url=request.getfixturevalue("empty_postgres") if on_postgres else "",
        lease_seconds=20.0,
        heartbeat_seconds=0.2,
        cancel_grace_seconds=20.0,
        watch_seconds=0.05,
        reap_seconds=0.2,
    )


@pytest.fixture
def database(settings):
    database = Database(settings.resolved_database_url)
    database.migrate()
    with database.session() as session:
        datasets.register_sample(session).path = str(HERE)  # any path that exists
    yield database
    database.dispose()


@pytest.fixture
def queue(database):
    """Submit a run of so many steps; returns its id."""

    def submit(steps=3, **facts):
        spec = {"steps": steps, "checkpoint_every": facts.pop("checkpoint_every", 5), **facts.pop("spec", {})}
        with database.session() as session:
            return db_submit.submit(session, "pretrain", spec, **facts).id

    return submit


@pytest.fixture
def study(database):
    """Submit a study of the toy, with one row and seed unless told otherwise; returns its id."""

    def submit(**changes):
        base = {"steps": 3, "checkpoint_every": 1, "optimizer": {"schedule": "constant"}}
        spec = {"pretrain": base, "metrics": [{"name": "steps", "metric": "steps"}], **changes}
        with database.session() as session:
            return studies.create_study(session, parse_as(StudySpec, spec)).id

    return submit


@pytest.fixture
def run_of(database):
    """The row of a run as it is now."""

    def read(run_id):
        with database.reading() as session:
            return runs.get_run(session, run_id)

    return read


@pytest.fixture
def steps_of(database):
    """The steps whose metrics are in the database, in the order in which they came."""

    def read(run_id):
        with database.reading() as session:
            return [row.step for row in runs.metrics_after(session, run_id)]

    return read


@pytest.fixture
def alive():
    """Whether a process exists and is no zombie."""

    def look(pid):
        try:
            status = Path(f"/proc/{pid}/stat").read_text()
        except FileNotFoundError:
            return False
        return status.rpartition(")")[2].split()[0] != "Z"

    return look


@pytest.fixture
def broker():
    with tempfile.TemporaryDirectory(prefix="lcl-") as folder, EmbeddedBroker(Path(folder)) as broker:
        yield broker


@pytest.fixture
def wakeup_producer(broker):
    wakeup_producer = WakeupProducer(broker.url)
    yield wakeup_producer
    wakeup_producer.close()


@pytest.fixture
def worker_processes(settings, modules, broker, tmp_path):
    worker_processes = WorkerProcesses(settings, broker, tmp_path)
    yield worker_processes
    worker_processes.end()


@pytest.fixture
def in_process_worker(database, settings, modules):
    return InProcessWorker(database, settings, modules)
