"""Devices of this machine from ``nvidia-smi``, without torch or CUDA in this process."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import structlog

from lcl_core.common.threads import usable_cores

log = structlog.get_logger(__name__)
_QUERY_SECONDS = 10.0
_USAGE_FIELDS = 4
_MEBIBYTE = 1 << 20


def detect_devices() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the NVIDIA GPUs, else one entry for the CPU; and the resources that runs may request here."""
    gpus = _gpu_names()
    return (gpus, ("cpu", "gpu")) if gpus else ((f"cpu ({usable_cores()} cores)",), ("cpu",))


def gpu_usage() -> list[dict[str, Any]]:
    """Usage of each NVIDIA GPU: ``name``, ``utilization`` (0–1), ``memory_used`` and ``memory_total`` (bytes).

    A value that the driver does not report (``[N/A]`` under MIG) is None.
    """
    return [
        _parse_usage(row)
        for row in _query_nvidia_smi("name,utilization.gpu,memory.used,memory.total")
        if len(row) == _USAGE_FIELDS
    ]


def _parse_usage(row: list[str]) -> dict[str, Any]:
    name, share, used, total = row
    return {
        "name": name,
        "utilization": _number(share, 0.01),
        "memory_used": _number(used, _MEBIBYTE),
        "memory_total": _number(total, _MEBIBYTE),
    }


def _number(text: str, unit: float) -> float | None:
    return float(text) * unit if text.isdecimal() else None


def _gpu_names() -> tuple[str, ...]:
    return tuple(name for (name,) in _query_nvidia_smi("name"))


def _query_nvidia_smi(fields: str) -> list[list[str]]:
    """One row a GPU; none where there is no driver or it fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        query = [program, f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
        listed = subprocess.run(query, capture_output=True, text=True, timeout=_QUERY_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("nvidia_smi_failed", error=str(error))
        return []
    return [[field.strip() for field in line.split(",")] for line in listed.stdout.splitlines() if line.strip()]
