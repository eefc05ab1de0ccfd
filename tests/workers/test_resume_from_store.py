"""A run whose homes are killed at random steps ends, bit by bit, as one that was left alone: they share only a store.

STORE_KILLS is the number of kills; 50 take some minutes. OMP_NUM_THREADS is 1, as ``make test`` sets it: the one that
was left alone runs in this process, and the number of threads changes the last digits.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import timedelta

import pytest

from lcl_core.common.run_dir import RunDir
from lcl_core.db import datasets, leases, runs, submit
from lcl_core.db.artifacts import stored_checkpoints
from lcl_core.db.session import Database, now
from tests.lcl_core.train.small_runs import TINY, curve, logged_steps, prepared, trainer, weights
from workers.mirror import local_checkpoints

KILLS = int(os.environ.get("STORE_KILLS", "3"))
HOMES = ("a", "b")


class Homes:
    """Home folders that share a database and a store, and one run."""

    def __init__(self, folder, store, spec):
        self.folder = folder
        self.url = f"sqlite:///{folder / 'shared.db'}"
        self.database = Database(self.url)
        self.database.migrate()
        with self.database.session() as session:
            datasets.register_sample(session)
            self.run_id = submit.submit(session, "pretrain", spec, max_attempts=1000).id
        self._environment = {
            **os.environ,
            "LCL_DATABASE_URL": self.url,
            "LCL_ARTIFACTS": store,
            "LCL_CHECKPOINTS": "store",
            "LCL_WATCH_SECONDS": "0.05",
            "LCL_REAP_SECONDS": "0.2",
            "OMP_NUM_THREADS": "1",
        }

    def run_dir(self, home):
        return RunDir(self.folder / home / "runs" / self.run_id)

    def log(self, home):
        return self.folder / f"{home}.log"

    @contextmanager
    def attempt(self, home, **environment):
        """A worker of that home at work on the run; killed at the end of the block, its job with it."""
        with self.log(home).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.workers.one_attempt"],
                env={**self._environment, "LCL_HOME": str(self.folder / home), **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def expire(self):
        """The lease of the worker that was killed runs out."""
        with self.database.session() as session:
            run = runs.get_run(session, self.run_id)
            if run.state == "running":
                run.lease_expires_at = now(session) - timedelta(seconds=1)
            session.flush()
            leases.expire_leases(session)

    def stored(self):
        """Step of the newest checkpoint in the store; 0: there is none."""
        with self.database.reading() as session:
            return max((each.step for each in stored_checkpoints(session, self.run_id)), default=0)

    def state(self):
        with self.database.reading() as session:
            run = runs.get_run(session, self.run_id)
            return run.state, run.reason

    def attempts_begun(self, home):
        try:
            return int(self.run_dir(home).read_run()["attempt"])
        except FileNotFoundError:
            return 0


def alone(folder, sample_zip, spec):
    run_dir = prepared(folder, sample_zip, **spec)
    run_dir.write_result(trainer(run_dir).run())
    return run_dir


def kill_at_random(homes, home, draw, eventually):
    """Kill an attempt: while it starts, within its first steps, or while it copies or has copied a checkpoint."""
    before, begun = homes.stored(), homes.attempts_begun(home)
    with homes.attempt(home) as process:

        def over():
            return process.poll() is not None

        moment = draw.choice(("start", "steps", "copied", "copied"))
        if moment == "start":
            eventually(lambda: homes.attempts_begun(home) != begun or over(), "the start of an attempt")
        else:
            after = before + draw.randint(1, 5)
            eventually(lambda: logged_steps(homes.run_dir(home)) >= after or over(), f"step {after}")
        if moment == "copied":
            eventually(lambda: homes.stored() > before or over(), f"a checkpoint after {before}")
        time.sleep(draw.uniform(0, 0.2))  # a copy takes about as long
        assert not over(), homes.log(home).read_text()[-3000:]
    started = [step for step, _ in local_checkpoints(homes.run_dir(home).checkpoints)]
    assert max(started, default=0) >= before, "it began before the newest checkpoint of the store"
    homes.expire()


@pytest.mark.extended
@pytest.mark.timeout(600 + 60 * KILLS)
def test_two_homes_killed_at_random_steps(tmp_path, sample_zip, s3_bucket, eventually):
    changes = {"steps": 20 + 6 * KILLS, "log_every": 1, "checkpoint_every": 2, "batch": {"tokens": 256, "images": 8}}
    expected = alone(tmp_path / "alone", sample_zip, changes)
    homes = Homes(tmp_path, f"{s3_bucket}/artifacts", {**TINY, **changes})
    draw = random.Random(KILLS)
    for _ in range(KILLS):
        kill_at_random(homes, draw.choice(HOMES), draw, eventually)
    assert homes.stored() > 0
    last = draw.choice(HOMES)
    with homes.attempt(last) as process:
        process.wait(timeout=600)
    assert homes.state() == ("succeeded", None), homes.log(last).read_text()[-3000:]
    assert curve(homes.run_dir(last)) == curve(expected)
    assert weights(homes.run_dir(last)) == weights(expected)
    with homes.database.reading() as session:
        steps = [row.step for row in runs.metrics_after(session, homes.run_id) if row.step]
    assert sorted(steps) == [line["step"] for line in curve(expected)], json.dumps(steps)
