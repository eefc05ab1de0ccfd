"""Training speed beside another process that keeps a core busy, and alone, by how OpenMP's threads wait.

Each candidate is a real training process of the preset ``sample`` with other environment variables. All are started
first and stand still (SIGSTOP) outside of their turns. In every round each candidate runs alone, then beside a process
that never waits; the figures are medians over the rounds. ``shipped`` is what the launcher of jobs sets.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from lcl_core.common.errors import UserError
from lcl_core.common.process_env import without_secrets
from lcl_core.common.run_dir import RunDir
from lcl_core.common.threads import WAIT_VARIABLES, cpu_quota, thread_env, usable_cores
from lcl_core.data import SAMPLE_CORPUS

_START_SECONDS = 120.0
_WARM_STEPS = 3
_BUSY = "while True: pass"
Environment = dict[str, str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--spin-counts", type=int, nargs="*", default=[], help="GOMP_SPINCOUNT of further candidates")
    parser.add_argument("--threads", type=int, nargs="*", default=[], help="OMP_NUM_THREADS of further candidates")
    parser.add_argument("--passive", action="store_true", help="one more candidate: OMP_WAIT_POLICY=PASSIVE")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--busy", type=int, default=1, help="processes that keep a core busy")


def main(options: argparse.Namespace) -> None:
    report = measure(_candidates(options), options.rounds, options.seconds, options.busy)
    print(json.dumps({"cores": usable_cores(), "cpu_quota": cpu_quota(), "busy": options.busy, **report}, indent=1))


def _candidates(options: argparse.Namespace) -> dict[str, Environment]:
    plain = {name: value for name, value in without_secrets(os.environ).items() if name not in _variables()}
    chosen: dict[str, Environment] = {"shipped": thread_env(plain), "library": {}}
    chosen |= {f"spin_{count}": {"GOMP_SPINCOUNT": str(count)} for count in options.spin_counts}
    chosen |= {f"threads_{count}": {"OMP_NUM_THREADS": str(count)} for count in options.threads}
    if options.passive:
        chosen["passive"] = {"OMP_WAIT_POLICY": "PASSIVE"}
    return {name: plain | {"PYTHONUNBUFFERED": "1"} | added for name, added in chosen.items()}


def _variables() -> tuple[str, ...]:
    return ("OMP_NUM_THREADS", *WAIT_VARIABLES)


def measure(candidates: dict[str, Environment], rounds: int, seconds: float, busy: int) -> dict[str, Any]:
    """Images per second of each candidate, ``alone`` and ``beside``, their ratio, and every round's values.

    Raises: UserError ``benchmark_failed`` when a training does not start.
    """
    rates: dict[str, dict[str, list[float]]] = {name: {"alone": [], "beside": []} for name in candidates}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lcl-contention-")))
        trainings = {}
        for name, environment in candidates.items():
            trainings[name] = stack.enter_context(_Training(folder / name, environment))
        for _ in range(rounds):
            for name, training in trainings.items():
                rates[name]["alone"].append(training.images_per_second(seconds))
                with _busy_processes(busy):
                    rates[name]["beside"].append(training.images_per_second(seconds))
    return {"images_per_s": {name: _summary(each) for name, each in rates.items()}}


def _summary(rates: dict[str, list[float]]) -> dict[str, Any]:
    alone, beside = median(rates["alone"]), median(rates["beside"])
    rounds = {name: [round(value, 1) for value in values] for name, values in rates.items()}
    return {"alone": round(alone, 1), "beside": round(beside, 1), "ratio": round(beside / alone, 3), "rounds": rounds}


class _Training:
    """A training process and its loader, stopped outside of ``images_per_second``. A context manager."""

    def __init__(self, path: Path, environment: Environment) -> None:
        path.mkdir()
        self._run_dir = RunDir(path)
        spec = {"preset": "sample", "steps": 1_000_000, "log_every": 1, "checkpoint_every": 1_000_000}
        run = {"run_id": path.name, "kind": "pretrain", "spec": spec, "datasets": {"sample": str(SAMPLE_CORPUS)}}
        self._run_dir.prepare(run)
        with self._run_dir.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lcl_core.train", str(path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        self._await_steps()

    def _await_steps(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while len(self._lines()) < _WARM_STEPS:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._kill()
                last = self._run_dir.log_file.read_text(errors="replace").strip().splitlines()[-1:]
                raise UserError(f"the training did not start: {last}", code="benchmark_failed")
            time.sleep(0.1)
        os.killpg(self._process.pid, signal.SIGSTOP)

    def images_per_second(self, seconds: float) -> float:
        """Over the whole steps that begin and end within ``seconds``, of which at least one is awaited."""
        known = len(self._lines())
        os.killpg(self._process.pid, signal.SIGCONT)
        # the step that was stopped in its middle ends first, and is not counted
        start, deadline = time.monotonic(), time.monotonic() + _START_SECONDS
        while time.monotonic() < start + seconds or len(self._lines()) < known + 2:
            if time.monotonic() > deadline:
                raise UserError("the training stands still", code="benchmark_failed")
            time.sleep(0.05)
        os.killpg(self._process.pid, signal.SIGSTOP)
        lines = self._lines()[known:]
        return (lines[-1]["images_seen"] - lines[0]["images_seen"]) / (lines[-1]["time"] - lines[0]["time"])

    def _lines(self) -> list[dict[str, Any]]:
        """Metric lines of whole steps."""
        file = self._run_dir.metrics_file
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        rows = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        return [row for row in rows if "images_seen" in row]

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> _Training:
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()


@contextlib.contextmanager
def _busy_processes(count: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-S", "-c", _BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
