"""Device and precision of a computation, and the memory of the process."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from lcl_core.common.errors import UserError
from lcl_core.common.gpus import has_leased_gpus

Precision = Literal["auto", "fp32", "bf16"]
_FP32_ERROR = 2e-6  # relative, of a product of 512-wide sums; fp32 gives 1e-7, operands rounded to bf16 2e-3


def pick_device() -> torch.device:
    """This process's GPU (by its local rank), or the CPU.

    Raises: UserError in a run that has leased GPUs which torch cannot use: it would hold them for nothing,
        and compute for days on the CPU.
    """
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if has_leased_gpus():
        raise UserError(f"{_cuda_problem()}; {_NO_CUDA_WAY_OUT}")
    return torch.device("cpu")


def _cuda_problem() -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return f"the run has a GPU, but torch {torch.__version__} of its worker is built for the CPU"
    return (
        f"the run has a GPU, but torch {torch.__version__} of its worker cannot use it: the driver is older than CUDA "
        f"{torch.version.cuda} needs, or does not show this device"
    )


_NO_CUDA_WAY_OUT = (
    "install a torch that fits the driver (.venv/bin/pip install --force-reinstall torch --index-url URL, for an image "
    "the build argument TORCH_INDEX; URL as in https://pytorch.org/get-started), or compute on the CPU: submit with "
    "--resource cpu, or start the worker with LCL_WORKER_OFFERS=cpu"
)


def use_device() -> torch.device:
    """``pick_device``, made CUDA's current one, so that whatever names no device uses no other rank's GPU.

    Its convolutions are ``full_fp32_convolutions``. Call it before anything else touches CUDA. Libraries (FSDP2, NCCL)
    ask for the current device.

    Raises: as ``pick_device``.
    """
    device = pick_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    full_fp32_convolutions(device)
    return device


def full_fp32_convolutions(device: torch.device) -> None:
    """Let this process's convolutions in fp32 multiply in fp32 on a GPU, where by default operands round to TF32.

    Those of a training or an encoder in bf16 are in bf16, by autocast. The setting is the older of PyTorch's two: its
    compiler reads that one, which fails where the newer one is set.
    """
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The autocast context of a forward pass; never fp16, which a CPU computes hundreds of times slower."""
    half = compute_dtype(device, precision) == torch.bfloat16
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=half)


def compute_dtype(device: torch.device, precision: Precision) -> torch.dtype:
    """``auto`` is bf16 wherever the hardware multiplies it: on NVIDIA's GPUs since Ampere, AMD's, and CPUs with AVX-512
    BF16 or AMX. Older GPUs of NVIDIA only emulate it.
    """
    half = precision == "bf16" or (precision == "auto" and _supports_bf16(device))
    return torch.bfloat16 if half else torch.float32


def local_part(tensor: Tensor) -> Tensor:
    """The part of a sharded tensor on this rank, which shares its memory; another tensor itself."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


@contextmanager
def onednn_fp32_matmul() -> Iterator[bool]:
    """Within, fp32 matrix products on the CPU go through oneDNN where that is still fp32.

    oneDNN is enabled by allowing bf16 operands. On CPUs with AMX it does round them, on others it computes in fp32,
    faster than the default library on some. Its error is measured, and only one of fp32's size is accepted. The same
    machine decides the same way each time, so that a resumed run computes as before.

    Yields: whether oneDNN is used.
    """
    settings = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    accepted = matmul_error() <= _FP32_ERROR
    if not accepted:
        settings.fp32_precision = before
    try:
        yield accepted
    finally:
        settings.fp32_precision = before


@contextmanager
def tf32_matmul(device: torch.device, precision: Precision) -> Iterator[None]:
    """Within, fp32 matrix products on a GPU round their operands to TF32 where training is in bf16.

    Outside of autocast that is the contrastive loss, whose features come from bf16 layers: TF32 has three bits more.
    """
    settings = torch.backends.cuda.matmul
    if device.type != "cuda" or compute_dtype(device, precision) != torch.bfloat16 or settings.allow_tf32:
        yield
        return
    settings.allow_tf32 = True
    try:
        yield
    finally:
        settings.allow_tf32 = False


def matmul_error(size: int = 512) -> float:
    """Relative error of an fp32 product on the CPU against float64, with the present settings."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(size, size, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    return float(((a @ b).double() - exact).norm() / exact.norm())


def _supports_bf16(device: torch.device) -> bool:
    if device.type != "cuda":
        return torch.cpu._is_avx512_bf16_supported()
    with torch.cuda.device(device):  # PyTorch answers for the current one
        return torch.cuda.is_bf16_supported(including_emulation=False)


_LIBC = ctypes.CDLL(None)
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h of glibc
_MAX_THRESHOLD = 2**31 - 1
_PRODUCT_SHAPES = 256  # more than a step has
SERVED_SHAPES = 64  # of requests hardly two are alike


def peak_memory_gib(device: torch.device | None = None) -> float:
    """Peak memory of ``device`` (none: this process's), of a CPU the process's peak resident set; GiB."""
    device = device or pick_device()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return peak_rss_gib()


def peak_rss_gib() -> float:
    """The process's peak resident set, mapped files included; GiB."""
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def resident_gib() -> float:
    """The process's resident set now, mapped files included, or its peak where the system does not say; GiB."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return peak_rss_gib()
    return pages * resource.getpagesize() / 2**30


class CpuClock:
    """Cores that this process, its children apart, keeps busy: CPU seconds of all threads a second."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def cores(self) -> float:
        """Mean since the last call, or since the start."""
        wall, cpu = time.monotonic(), time.process_time()
        mean = (cpu - self._cpu) / max(wall - self._wall, 1e-9)
        self._wall, self._cpu = wall, cpu
        return mean


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next step.

    It would return large blocks, and the system would clear every page again at the next step: a twentieth of a step's
    time on the CPU, a third with large feature maps. No effect without glibc.
    """
    mallopt = getattr(_LIBC, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _MAX_THRESHOLD)


def release_freed_memory() -> None:
    """Return the free pages of every thread's heap to the system.

    The C library itself returns only the end of a heap: after large images most would stay. No effect without glibc.
    """
    trim = getattr(_LIBC, "malloc_trim", None)
    if trim is not None:
        trim(0)


def limit_onednn_cache(shapes: int = _PRODUCT_SHAPES) -> None:
    """Let PyTorch and oneDNN remember the products of so many ``shapes`` only, if called before the first product.

    oneDNN generates code for every shape; both keep what belongs to the last 1,024 of them, some 2 MB a shape. Packed
    batches bring new shapes each time, so that this grows for hours, for little: what returns mostly returns within a
    step. Values of these variables that are in the environment already are left as they are.
    """
    for variable in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(variable, str(shapes))
