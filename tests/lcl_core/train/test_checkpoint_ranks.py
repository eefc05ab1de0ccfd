"""Sharded checkpoints of two processes come back into two and into one, bit by bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("sharded_run.py")


def run(folder: Path, ranks: int) -> None:
    command = [sys.executable, str(SCRIPT), str(folder)]
    # the loopback interface alone: the machine's name may lead elsewhere
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen([*command, str(rank), str(ranks)], env=environment, stderr=subprocess.PIPE, text=True)
        for rank in range(ranks)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_two_ranks_save_and_two_and_one_resume(tmp_path: Path) -> None:
    run(tmp_path, ranks=2)
    checkpoint = tmp_path / "checkpoints" / "step_00000002"
    assert {path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*.*")} == {
        *(f"{group}/rank_0000{rank}.safetensors" for group in ("model", "optimizer", "ema", "more") for rank in (0, 1)),
        *(f"rng.rank_0000{rank}.safetensors" for rank in (0, 1)),
        *(f"state.rank_0000{rank}.json" for rank in (0, 1)),
        "state.json",
        "manifest.json",
    }
    run(tmp_path, ranks=1)
