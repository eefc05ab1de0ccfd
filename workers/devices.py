"""What a worker can compute on, found out without torch or CUDA in this process."""

from __future__ import annotations

import os
import shutil
import subprocess

import structlog

log = structlog.get_logger(__name__)
_SECONDS = 10.0


def device_names() -> tuple[str, ...]:
    """Names of the NVIDIA GPUs, else one entry for the processor."""
    return _gpus() or (f"cpu ({_cores()} cores)",)


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _gpus() -> tuple[str, ...]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    try:
        query = [program, "--query-gpu=name", "--format=csv,noheader"]
        listed = subprocess.run(query, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("nvidia_smi_failed", error=str(error))
        return ()
    return tuple(line.strip() for line in listed.stdout.splitlines() if line.strip())
