"""Processes that play the ranks of one training."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]  # a rank imports what tests share


def run_together(commands: Sequence[Sequence[str]], seconds: float = 240) -> None:
    """Start all, wait for all, leave none; each must succeed."""
    # the loopback interface alone: the machine's name may lead elsewhere
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}
    processes = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for command in commands]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=seconds)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
            process.wait()
