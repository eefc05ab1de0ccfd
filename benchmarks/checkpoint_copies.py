"""Time of a training step while checkpoints are copied to the artifact store, and without a store.

A worker trains the preset ``sample`` on this machine, in turn with ``LCL_CHECKPOINTS`` local and store (a folder or
``s3://…``). Checkpoints are frequent, so that a good part of the time copies are under way. A step's time is that of
its metric line, which leaves out what is no training, such as the writing of a checkpoint.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lcl_core.common.run_dir import RunDir
from lcl_core.db import datasets, queue, runs, submit
from lcl_core.db.artifacts import stored_checkpoints
from lcl_core.db.leases import Claim
from lcl_core.db.session import Database
from workers.settings import WorkerSettings
from workers.supervisor import Supervisor
from workers.worker import configure_logging

WARM_UP = 10  # steps that do not count
VARIANTS = ("local", "store")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=80, help="of each run; the first ten do not count")
    parser.add_argument("--every", type=int, default=10, help="steps between two checkpoints")
    parser.add_argument("--rounds", type=int, default=3, help="runs of both kinds, in turn")
    parser.add_argument("--store", default="", help="URL of an empty artifact store; default: a temporary folder")
    parser.add_argument("--spec", type=json.loads, default={}, help="of the runs, as JSON; default: the preset sample")


def main(options: argparse.Namespace) -> None:
    configure_logging("auto")  # to standard error
    with TemporaryDirectory(prefix="lcl-bench-") as folder:
        store = options.store or Path(folder, "artifacts").as_uri()
        spec = {
            **(options.spec or {"preset": "sample"}),
            **{"steps": options.steps, "log_every": 1, "checkpoint_every": options.every},
        }
        print(json.dumps(measure(Path(folder), store, spec, options.rounds)))


def measure(folder: Path, store: str, spec: dict[str, Any], rounds: int) -> dict[str, Any]:
    """The figures of this benchmark. Raises: RuntimeError for a run that did not succeed."""
    seconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    copied = []
    for number in range(rounds):
        for variant in VARIANTS if number % 2 == 0 else reversed(VARIANTS):
            home = folder / f"{variant} {number}"
            settings = WorkerSettings(
                home=home,
                database_url=f"sqlite:///{home / 'lcl.db'}",
                checkpoints=variant,
                artifacts=f"{store}/{number}" if variant == "store" else "",
            )
            steps, checkpoints = _train(settings, spec)
            seconds[variant].append(statistics.mean(steps))
            copied += checkpoints
    local, stored = (statistics.median(seconds[variant]) for variant in VARIANTS)
    return {
        "steps": spec["steps"],
        "checkpoint_every": spec["checkpoint_every"],
        "seconds_a_step": {variant: [round(each, 4) for each in spent] for variant, spent in seconds.items()},
        "ratio": round(stored / local, 4),
        "newest_copies": copied,
    }


def _train(settings: WorkerSettings, spec: dict[str, Any]) -> tuple[list[float], list[int]]:
    """Seconds of each step that counts, and the steps whose checkpoints the store has at the end."""
    settings.home.mkdir(parents=True)
    database = Database(settings.resolved_database_url)
    database.migrate()
    with database.session() as session:
        datasets.register_sample(session)
        run_id = submit.submit(session, "pretrain", spec).id
    with database.session() as session:
        claim = queue.claim_next(session, "benchmark", settings.lease_seconds)
    assert isinstance(claim, Claim)
    Supervisor(database, settings).run(claim, threading.Event())
    with database.reading() as session:
        run = runs.get_run(session, run_id)
        if run.state != "succeeded":
            raise RuntimeError(f"the run is {run.state}: {run.reason}")
        copies = [each.step for each in stored_checkpoints(session, run_id)]
    database.dispose()
    return _step_seconds(RunDir(settings.home / "runs" / run_id)), copies


def _step_seconds(run_dir: RunDir) -> list[float]:
    lines = [json.loads(line) for line in run_dir.metrics_file.read_text(encoding="utf-8").splitlines()]
    trained = [line for line in lines if "images_per_s" in line and "phase" not in line]
    return [
        (line["images_seen"] - before["images_seen"]) / line["images_per_s"]
        for before, line in zip(trained[WARM_UP - 1 :], trained[WARM_UP:], strict=False)
    ]
