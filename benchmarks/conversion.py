"""Seconds of a conversion with one process and with several, and how soon a killed one continues.

Each conversion is a run as a worker starts it, on the same made-up photographs, and its time contains the start of the
process. One process decodes in several threads, so it is measured on one core (Linux) and on all: ``speedup`` compares
several processes with one on one core, ``speedup_over_threads`` with one on all cores. All processes of one more
conversion are killed (SIGKILL) at half of the photographs; ``continues_s`` is the time from the start of the next
attempt until it has completed more than the killed one.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.scale import write_photographs
from lcl_core.common.run_dir import RunDir
from lcl_core.parts.completion_log import LOG_FILE

POLL_SECONDS = 0.01


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--photographs", type=int, default=5000, help="of 1024 x 768 pixels")
    parser.add_argument("--processes", type=int, default=2, help="compared with one")
    parser.add_argument("--rounds", type=int, default=3, help="of both, in turn; the medians are compared")


def main(options: argparse.Namespace) -> None:
    with TemporaryDirectory(prefix="lcl-bench-") as folder:
        corpus = Path(folder, "corpus")
        write_photographs(corpus, options.photographs)
        print(json.dumps(measure(corpus, Path(folder), options.photographs, options.processes, options.rounds)))


def measure(corpus: Path, folder: Path, photographs: int, processes: int, rounds: int) -> dict[str, Any]:
    """The figures of this benchmark."""
    kinds = {"one core": (1, 1), "one process": (1, None), "processes": (processes, None)}
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(rounds):
        for kind, (count, cores) in kinds.items():
            with _cores(cores):
                seconds[kind].append(_convert(folder / f"{kind} {number}", corpus, count))
    one_core, one_process, several = (statistics.median(spent) for spent in seconds.values())
    return {
        "photographs": photographs,
        "processes": processes,
        "seconds": {kind: [round(each, 2) for each in spent] for kind, spent in seconds.items()},
        "speedup": round(one_core / several, 3),
        "speedup_over_threads": round(one_process / several, 3),
        **_kill_and_continue(folder / "killed", corpus, processes, photographs // 2),
    }


@contextmanager
def _cores(count: int | None) -> Iterator[None]:
    """Processes that are started within have so many of this one's cores; None: all."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[-(count or 0) :])  # the first core has the machine's interrupts, too
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _convert(folder: Path, corpus: Path, processes: int) -> float:
    """Seconds. Raises: CalledProcessError."""
    run = _prepare(folder, corpus, processes)
    began = time.perf_counter()
    subprocess.run(_command(run), check=True, capture_output=True)
    return time.perf_counter() - began


def _kill_and_continue(folder: Path, corpus: Path, processes: int, at: int) -> dict[str, Any]:
    """Kill a conversion that has read ``at`` photographs and completed a part, and start it anew."""
    run = _prepare(folder, corpus, processes)
    with subprocess.Popen(_command(run), start_new_session=True, stdout=subprocess.DEVNULL) as first:
        _wait_for_step(run, at, first)
        _wait_for_part(run, first)
        os.killpg(first.pid, signal.SIGKILL)
    killed_at = _last_step(run)
    run.metrics_file.unlink()
    began = time.perf_counter()
    with subprocess.Popen(_command(run), stdout=subprocess.PIPE, text=True) as second:
        _wait_for_step(run, killed_at + 1, second)
        continues = time.perf_counter() - began
        log, _ = second.communicate()
    kept = next((int(line.split()[0].replace(",", "")) for line in log.splitlines() if "earlier attempts" in line), 0)
    return {"killed_at": killed_at, "kept": kept, "continues_s": round(continues, 2), "status": second.returncode}


def _prepare(folder: Path, corpus: Path, processes: int) -> RunDir:
    folder.mkdir()
    run = RunDir(folder)
    spec = {"name": "made", "path": str(corpus), "processes": processes}
    run.prepare({"run_id": "run_1", "kind": "convert", "spec": spec, "roots": [str(corpus.parent)]})
    return run


def _command(run: RunDir) -> Sequence[str]:
    return [sys.executable, "-m", "lcl_core.data.conversion", str(run.path)]


def _wait_for_step(run: RunDir, step: int, process: subprocess.Popen[Any]) -> None:
    """Raises: RuntimeError if the process ends before."""
    while _last_step(run) < step:
        if process.poll() is not None and _last_step(run) < step:
            raise RuntimeError(f"the conversion ended with status {process.returncode} before photograph {step}")
        time.sleep(POLL_SECONDS)


def _wait_for_part(run: RunDir, process: subprocess.Popen[Any]) -> None:
    """Raises: RuntimeError if the process ends before."""
    log = run.checkpoints / "parts" / LOG_FILE
    while not (log.exists() and '"kind":"part"' in log.read_text(encoding="utf-8")):
        if process.poll() is not None:
            raise RuntimeError(f"the conversion ended with status {process.returncode} before a part was complete")
        time.sleep(POLL_SECONDS)


def _last_step(run: RunDir) -> int:
    if not run.metrics_file.exists():
        return 0
    whole = run.metrics_file.read_text(encoding="utf-8").rpartition("\n")[0]
    return max((int(json.loads(line)["step"]) for line in whole.splitlines()), default=0)
