"""A check-up of one GPU: numerics, attention, resume, compiled blocks, speed, loaders, serving.

The exit status is 0 if every part passed. At most eight minutes on a GPU; ``--device cpu --quick`` runs the same code
with tiny models.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_checks import PARTS, CheckUp, run_part
from lcl_core import __version__
from lcl_core.common.errors import UserError

_BUDGET = 480.0  # seconds of all parts together


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny models: whether it runs, not how fast")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=_BUDGET, help="after which parts that have not ended fail")


def main(options: argparse.Namespace) -> int:
    """Run the parts, each in a process of its own. Returns: the exit status. Raises: UserError without a GPU."""
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before CUDA is asked: the runs of some parts choose it by themselves
    elif torch.cuda.device_count() == 0:  # asks the driver's library; CUDA itself starts in the parts
        raise UserError("there is no GPU; --device cpu --quick shows what would run", code="bad_device", field="device")
    end = time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory(prefix="lcl-bench-gpu-") as folder:
        parts = {name: _run(name, options, Path(folder) / name, end - time.monotonic()) for name in options.parts}
    report = {"machine": _machine(options), "parts": parts, "passed": all(part["passed"] for part in parts.values())}
    print(json.dumps(report, indent=1))
    return 0 if report["passed"] else 1


def _run(name: str, options: argparse.Namespace, folder: Path, seconds: float) -> dict[str, Any]:
    """One part, forked from this process, which imported the libraries and never started CUDA."""
    folder.mkdir()
    result = folder / "result.json"
    up = CheckUp(torch.device(options.device), options.quick, folder)
    process = multiprocessing.get_context("fork").Process(target=_child, args=(name, up, result))
    process.start()
    process.join(max(seconds, 0.0))
    if process.is_alive() and process.pid is not None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the runs that it has started too
        process.kill()
        process.join()
        return {"passed": False, "error": f"it had not ended after the {options.seconds:g} seconds of all parts"}
    if not result.exists():
        return {"passed": False, "error": f"its process ended with status {process.exitcode}"}
    return dict(json.loads(result.read_text(encoding="utf-8")))


def _child(name: str, up: CheckUp, result: Path) -> None:
    os.setpgrp()
    run_part(name, up, result)
    os._exit(0)  # threads of libraries must not turn a finished part into a failed one


def _machine(options: argparse.Namespace) -> dict[str, Any]:
    device = platform.processor() or platform.machine()
    if options.device == "cuda":
        device = torch.cuda.get_device_name(0)
    return {
        "device": device,
        "cores": os.cpu_count(),
        "lcl": __version__,
        "torch": torch.__version__,
        "cuda": torch.version.cuda or torch.version.hip,
        "quick": options.quick,
    }
