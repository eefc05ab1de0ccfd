"""Seconds from the start of a run of several nodes on Ray until its processes run, and until its first step.

A cluster with one raylet for each node of the run is started on this machine. A worker then trains a small model on it
over gloo. The first step needs all ranks: they have imported torch, met, and built the model by then. The same run with
one process of the executor ``local`` is for comparison: it starts without Ray and meets nobody.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lcl_core.common.errors import import_optional
from lcl_core.common.run_dir import RunDir
from lcl_core.db import datasets, queue, runs, submit
from lcl_core.db.leases import Claim
from lcl_core.db.session import Database
from workers.executors.base import Executor, Handle, JobRequest, create_executor
from workers.settings import WorkerSettings
from workers.supervisor import Supervisor
from workers.worker import configure_logging

STORE_BYTES = 80 << 20  # of a raylet
SPEC: dict[str, Any] = {"preset": "sample", "steps": 2, "log_every": 1, "checkpoint_every": 2}
_POLL_SECONDS = 0.01
_FREE_SECONDS = 30.0  # in which a cluster reports the place of a run that has ended


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--spec", type=json.loads, default=SPEC, help="of the runs, as JSON; default: the preset sample"
    )


def main(options: argparse.Namespace) -> None:
    with TemporaryDirectory(prefix="lcl-bench-") as folder, ray_cluster(options.nodes) as address:
        configure_logging("auto")  # to standard error
        home = Path(folder)
        figures = {
            "one_process_local": _measure(home / "local", options.spec, options.rounds, 1, executor="local"),
            f"{options.nodes}_nodes_ray": _measure(
                home / "ray", options.spec, options.rounds, options.nodes, executor="ray", ray_address=address
            ),
        }
    print(json.dumps(figures, indent=1))


@contextlib.contextmanager
def ray_cluster(nodes: int) -> Iterator[str]:
    """Address of a cluster of ``nodes`` raylets of one processor each, and a head without. Raises: UserError."""
    import_optional("ray", "the benchmark gang", "ray", "benchmark")
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}  # the nodes share this machine
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    try:
        for processors in (0, *[1] * nodes):
            cluster.add_node(num_cpus=processors, object_store_memory=STORE_BYTES)
        yield cluster.address
    finally:
        cluster.shutdown()


def _measure(home: Path, spec: dict[str, Any], rounds: int, nodes: int, **chosen: Any) -> dict[str, list[float]]:
    """Seconds of each round until processes run on all nodes, and until the first step is logged."""
    home.mkdir()
    settings = WorkerSettings(home=home, database_url=f"sqlite:///{home / 'lcl.db'}", **chosen)
    database = Database(settings.resolved_database_url)
    database.migrate()
    with database.session() as session:
        datasets.register_sample(session)
    executor = create_executor(settings)
    seconds: dict[str, list[float]] = {"processes": [], "first_step": []}
    with executor.serving([]):
        for _ in range(rounds):
            started, stepped = _run(database, settings, executor, {**spec, "engine": {"nodes": nodes}})
            seconds["processes"].append(round(started, 2))
            seconds["first_step"].append(round(stepped, 2))
    database.dispose()
    return seconds


def _run(database: Database, settings: WorkerSettings, executor: Executor, spec: dict[str, Any]) -> tuple[float, float]:
    """Raises: RuntimeError for a run that did not succeed."""
    with database.session() as session:
        run_id = submit.submit(session, "pretrain", spec).id
    claim = _claim(database, settings, executor)
    timed = _TimedStart(executor)
    supervisor = Supervisor(database, settings, executor=timed)
    thread = threading.Thread(target=supervisor.run, args=(claim, threading.Event()))
    begun = time.perf_counter()
    thread.start()
    metrics = RunDir(settings.runs_dir / run_id).metrics_file
    while thread.is_alive() and not _has_step(metrics):
        time.sleep(_POLL_SECONDS)
    stepped = time.perf_counter()
    thread.join()
    with database.reading() as session:
        run = runs.get_run(session, run_id)
        if run.state != "succeeded":
            raise RuntimeError(f"the run is {run.state}: {run.reason}")
    return timed.started - begun, stepped - begun


def _has_step(metrics: Path) -> bool:
    """Whether a step is among the metric lines, whose first ones tell of phases before it."""
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
    return any('"images_per_s"' in line and '"phase"' not in line for line in lines)


def _claim(database: Database, settings: WorkerSettings, executor: Executor) -> Claim:
    """The queued run, as soon as the cluster reports that it fits. Raises: RuntimeError."""
    deadline = time.monotonic() + _FREE_SECONDS
    while time.monotonic() < deadline:
        capacity = executor.capacity() if executor.places_nodes else None
        claim: object
        with database.session() as session:
            if capacity is None:
                claim = queue.claim_next(session, "benchmark", settings.lease_seconds)
            else:
                claim = queue.claim_for_engine(session, "benchmark", settings.lease_seconds, ("cpu",), capacity)
        if isinstance(claim, Claim):
            return claim
        time.sleep(_POLL_SECONDS)
    raise RuntimeError(f"the cluster has had no free capacity for the run for {_FREE_SECONDS:g} s")


class _TimedStart:
    """An executor that says when it had started a job."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.started = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    @contextlib.contextmanager
    def start(self, request: JobRequest, remember: Callable[[Handle], None]) -> Iterator[Any]:
        with self._executor.start(request, remember) as job:
            self.started = time.perf_counter()
            yield job
