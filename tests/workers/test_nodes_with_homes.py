"""A run of two nodes whose workers share only a database and a store is killed at random steps, and ends bit-equal.

NODE_KILLS is the number of kills.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lcl_core.common.run_dir import RunDir
from lcl_core.db import datasets, runs, submit
from lcl_core.db.artifacts import stored_checkpoints
from lcl_core.db.session import Database
from tests.lcl_core.train.small_runs import TINY
from tests.workers.worker_processes import WorkerProcesses
from workers.remote_checkpoints import written_checkpoints
from workers.settings import WorkerSettings

pytestmark = [pytest.mark.local_executor, pytest.mark.extended]

KILLS = int(os.environ.get("NODE_KILLS", "3"))
SPEC = {
    **TINY,
    "steps": 40 + 40 * KILLS,
    "log_every": 1,
    "checkpoint_every": 2,
    "engine": {"nodes": 2},
}


class Nodes:
    """Workers with a home each, and one run of two nodes."""

    def __init__(
        self, database: Database, url: str, worker_processes: WorkerProcesses, folder: Path, store: str
    ) -> None:
        self.database, self.url, self.worker_processes, self.folder, self.store = (
            database,
            url,
            worker_processes,
            folder,
            store,
        )
        self.homes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, home: str) -> subprocess.Popen[bytes]:
        self.homes[home] = self.worker_processes.start(
            toy=False,
            LCL_HOME=str(self.folder / home),
            LCL_DATABASE_URL=self.url,
            LCL_ARTIFACTS=self.store,
            LCL_CHECKPOINTS="store",
            LCL_LEASE_SECONDS="12",
            OMP_NUM_THREADS="1",
            **{name: value for name, value in os.environ.items() if name.startswith("AWS_")},
        )
        return self.homes[home]

    def kill(self, home: str) -> None:
        worker = self.homes.pop(home)
        worker.send_signal(signal.SIGKILL)
        worker.wait()

    def leader(self, run_id: str) -> str:
        """Home of node 0."""
        with self.database.reading() as session:
            owner = runs.get_run(session, run_id).lease_owner or ""
        return next((home for home, worker in self.homes.items() if f"-{worker.pid}-" in owner), "")

    def run_dir(self, home: str, run_id: str) -> RunDir:
        return RunDir(self.folder / home / "runs" / run_id)

    def stored(self, run_id: str) -> int:
        with self.database.reading() as session:
            return max((each.step for each in stored_checkpoints(session, run_id)), default=0)

    def log(self) -> str:
        return "\n".join(
            self.worker_processes.log(number).read_text()[-4000:]
            for number in range(len(self.worker_processes.started))
        )


@pytest.fixture
def nodes(
    database: Database,
    settings: WorkerSettings,
    worker_processes: WorkerProcesses,
    tmp_path: Path,
    s3_bucket: str,
    sample_zip: Path,
) -> Nodes:
    with database.session() as session:
        datasets.register_sample(session).path = str(sample_zip)
    return Nodes(
        database, settings.resolved_database_url, worker_processes, tmp_path / "homes", f"{s3_bucket}/artifacts"
    )


def submitted(database: Database, **changes: Any) -> str:
    with database.session() as session:
        return submit.submit(session, "pretrain", {**SPEC, **changes}, max_attempts=1000).id


@pytest.mark.timeout(600 + 120 * KILLS)
def test_two_homes_killed_at_random_steps_end_as_one_undisturbed_run(
    nodes: Nodes, database: Database, run_of: Any, eventually: Callable[..., None]
) -> None:
    run_id, draw = submitted(database), random.Random(KILLS)
    fresh = iter("cdefghijklmnopqrstuvwxyz")
    nodes.start("a"), nodes.start("b")
    for _ in range(KILLS):
        before = nodes.stored(run_id)
        after = before + draw.randint(1, 6)
        eventually(lambda: nodes.stored(run_id) >= after, f"a copy of step {after} or later")  # noqa: B023
        eventually(lambda: nodes.leader(run_id), "a node 0")
        leader = nodes.leader(run_id)
        victim = draw.choice([leader, *(home for home in nodes.homes if home != leader)])
        time.sleep(draw.uniform(0, 0.5))  # a step, a save and a copy take less
        stored = nodes.stored(run_id)
        nodes.kill(victim)
        eventually(lambda: run_of(run_id).state != "running", "the end of the attempt")
        nodes.start(draw.choice([victim, next(fresh)]))  # the same home, or one that has nothing
        eventually(lambda: nodes.leader(run_id), "the next attempt")
        first = nodes.run_dir(nodes.leader(run_id), run_id)
        eventually(lambda: written_checkpoints(first.checkpoints), "its checkpoint")  # noqa: B023
        assert max(step for step, _ in written_checkpoints(first.checkpoints)) >= stored, "it began before the store's"
    eventually(lambda: run_of(run_id).state == "succeeded", "the end")
    alone = submitted(database)
    eventually(lambda: run_of(alone).state == "succeeded", "a run that is left alone")
    assert run_of(run_id).attempt > 1
    assert run_of(alone).result["encoder"]["hash"] == run_of(run_id).result["encoder"]["hash"]
    with database.reading() as session:
        rows = {
            each: [
                (row.step, row.values["loss"])
                for row in runs.metrics_after(session, each)
                if row.step and "loss" in row.values
            ]
            for each in (run_id, alone)
        }
    assert sorted(rows[run_id]) == sorted(rows[alone])
    assert len(rows[alone]) == SPEC["steps"]
