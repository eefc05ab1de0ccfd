"""A program called ``nvidia-smi`` that lists what a test says, for a folder on PATH."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

MIG_ID = "MIG-{:08d}-0000-0000-0000-000000000000"


def gpu_id(number: int) -> str:
    return f"GPU-{number:08d}-0000-0000-0000-000000000000"


def listing(gpus: int, instances: Sequence[int] = ()) -> str:
    """What ``--list-gpus`` prints: so many GPUs, of which GPU 0 … have so many MIG instances."""
    lines = []
    for number in range(gpus):
        lines.append(f"GPU {number}: NVIDIA A100-SXM4-40GB (UUID: {gpu_id(number)})")
        for part in range(instances[number] if number < len(instances) else 0):
            lines.append(f"  MIG 1g.5gb      Device  {part}: (UUID: {MIG_ID.format(10 * number + part)})")
    return "\n".join(lines)


def install(folder: Path, listed: str, usage: str = "", status: int = 0) -> Path:
    """Write the program. Returns: the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "listed").write_text(f"{listed}\n" if listed else "")
    (folder / "usage").write_text(f"{usage}\n" if usage else "")
    program = folder / "nvidia-smi"
    program.write_text(
        f'#!/bin/sh\ncase "$1" in --list-gpus) /bin/cat {folder}/listed;; --query-gpu=*) /bin/cat {folder}/usage;; '
        f"esac\nexit {status}\n"
    )
    program.chmod(0o755)
    return folder
