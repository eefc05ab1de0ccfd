"""GPUs and MIG instances that this process may use, from ``nvidia-smi``. Imports no torch and opens no CUDA context.

An id is the UUID of a GPU (``GPU-…``) or of a MIG instance (``MIG-…``). It names the same device in every container and
process of a machine, whatever their order of devices, and ``CUDA_VISIBLE_DEVICES`` accepts it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import structlog

from lcl_core.common.errors import UserError

log = structlog.get_logger(__name__)
VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
POD_GPUS = "LCL_POD_GPUS"  # of a run's pod: Kubernetes shows it its GPUs without that variable
_NO_DEVICE = ("", "-1", "NoDevFiles")  # first entries that hide all devices
_QUERY_SECONDS = 60.0  # without persistence mode the driver initialises each GPU anew, for seconds
_USAGE_FIELDS = 5
_MEBIBYTE = 1 << 20
_DRIVER_DEVICE = "/dev/nvidiactl"
_LISTED_GPU = re.compile(r"GPU (\d+): (.+) \(UUID: (GPU-[^)]+)\)")
_LISTED_MIG = re.compile(r"\s+(MIG .+?)\s+Device\s+\d+: \(UUID: (MIG-[^)]+)\)")


@dataclass(frozen=True)
class Gpu:
    """A device of one process: a GPU, or a MIG instance of one."""

    id: str
    name: str
    parent: str  # of a MIG instance the GPU's id; of a GPU its own
    index: int  # number of the GPU in nvidia-smi, which follows the PCI bus


def torch_is_for_cpu() -> bool:
    """Whether the installed torch is PyTorch's build for the CPU, by its package's version: torch is not imported."""
    return version("torch").endswith("+cpu")


def is_whole(device: str) -> bool:
    """Whether the id is that of a GPU. CUDA opens one MIG instance a process, so that several never serve one run."""
    return not device.startswith("MIG-")


def visible_gpus(environment: Mapping[str, str] = os.environ) -> list[Gpu]:
    """Devices of the machine, or those that ``CUDA_VISIBLE_DEVICES`` of the environment names, in its order.

    An entry is a number of nvidia-smi, or the beginning of a UUID. As in CUDA, entries after the first one that names
    no device are ignored, and an empty value is no device. A GPU in MIG mode stands for its instances.
    """
    listed = list_gpus()
    wanted = environment.get(VISIBLE_DEVICES)
    if wanted is None:
        return listed
    found: dict[str, Gpu] = {}
    for entry in (part.strip() for part in wanted.split(",")):
        named = [gpu for gpu in listed if _is_named(gpu, entry)]
        if not named:
            if entry not in _NO_DEVICE:
                log.warning("device_not_found", entry=entry, variable=VISIBLE_DEVICES)
            break
        found |= {gpu.id: gpu for gpu in named}
    return list(found.values())


def _is_named(gpu: Gpu, entry: str) -> bool:
    if entry.isdecimal():
        return gpu.index == int(entry)
    return entry.startswith(("GPU-", "MIG-")) and (gpu.id.startswith(entry) or gpu.parent.startswith(entry))


def find_gpu(name: str) -> Gpu:
    """The visible device that a number of nvidia-smi, ``cuda:N`` or the beginning of a UUID names."""
    gpus = visible_gpus()
    named = [gpu for gpu in gpus if _is_named(gpu, name.removeprefix("cuda:"))]
    if len(named) != 1:
        shown = ", ".join(f"{gpu.index} ({gpu.name}, {gpu.id})" for gpu in gpus) or "none"
        count = "no GPU" if not named else f"{len(named)} devices"
        raise UserError(f"{name!r} names {count}; there are: {shown}")
    return named[0]


def list_gpus() -> list[Gpu]:
    """All GPUs of the machine; of one in MIG mode its instances. Empty without a driver."""
    lines = _run_nvidia_smi("--list-gpus")
    return list(_parse_list(lines))


def _parse_list(lines: Sequence[str]) -> Iterator[Gpu]:
    gpu: Gpu | None = None
    for line in lines:
        if found := _LISTED_GPU.match(line):
            if gpu is not None:
                yield gpu
            gpu = Gpu(found[3], found[2], found[3], int(found[1]))
            whole = gpu
        elif found := _LISTED_MIG.match(line):
            gpu = None  # CUDA cannot open a GPU beside its instances
            yield Gpu(found[2], f"{whole.name} {found[1]}", whole.id, whole.index)
    if gpu is not None:
        yield gpu


def gpu_usage(gpus: Sequence[Gpu]) -> list[dict[str, Any]]:
    """Usage of each of ``gpus``: ``id``, ``name``, ``utilization`` (0–1), ``memory_used``, ``memory_total`` (bytes).

    A value that the driver does not report is None, as all values of a MIG instance are.
    """
    if not gpus:
        return []
    fields = "uuid,name,utilization.gpu,memory.used,memory.total"
    lines = _run_nvidia_smi(f"--query-gpu={fields}", "--format=csv,noheader,nounits")
    rows = [[field.strip() for field in line.split(",")] for line in lines]
    known = {row[0]: row[2:] for row in rows if len(row) == _USAGE_FIELDS}
    return [_usage(gpu, *known.get(gpu.id, ("", "", ""))) for gpu in gpus]


def _usage(gpu: Gpu, share: str, used: str, total: str) -> dict[str, Any]:
    return {
        "id": gpu.id,
        "name": gpu.name,
        "utilization": _number(share, 0.01),
        "memory_used": _number(used, _MEBIBYTE),
        "memory_total": _number(total, _MEBIBYTE),
    }


def _number(text: str, unit: float) -> float | None:
    return float(text) * unit if text.isdecimal() else None


def _run_nvidia_smi(*arguments: str) -> list[str]:
    """Lines of its output; none where there is no driver or it fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        if os.path.exists(_DRIVER_DEVICE):
            log.warning("nvidia_smi_missing", effect="no GPU is used; in a container, add the capability 'utility'")
        return []
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=_QUERY_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("nvidia_smi_failed", error=str(error))
        return []
    return [line for line in done.stdout.splitlines() if line.strip()]


def visible_devices_env(devices: Collection[str]) -> dict[str, str]:
    """Environment that shows exactly ``devices`` to CUDA; none of them: no GPU at all."""
    return {VISIBLE_DEVICES: ",".join(devices)}


def has_leased_gpus(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is one of a run to which a worker, or the engine of its executor, has given GPUs."""
    if not environment.get("LCL_SUPERVISED"):
        return False
    shown = environment.get(VISIBLE_DEVICES)
    if shown is None:
        return bool(environment.get(POD_GPUS))
    return shown.partition(",")[0].strip() not in _NO_DEVICE
