"""Memory of this process: how much it has needed at most, and how it is held."""

from __future__ import annotations

import ctypes
import os
import resource
import sys

import torch

_C = ctypes.CDLL(None)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_NEVER = 2**31 - 1
_LARGE = 32 << 20  # bytes; the few blocks above are the vocabulary's, and leave holes that nothing else fills
_PRODUCT_SHAPES = 256  # more than a step has
SERVED_SHAPES = 64  # of requests hardly two are alike


def memory_gib() -> float:
    """Peak GPU memory where there is a GPU, else the process's peak resident set; GiB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resident_gib()


def resident_gib() -> float:
    """The process's peak resident set, mapped files included; GiB."""
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def keep_freed_memory() -> None:
    """Let the C library keep what a step frees for the next one.

    It would give large blocks back, and the system would clear every page of them again at the next step: about a
    twentieth of a step's time on the CPU. Without glibc nothing happens.
    """
    mallopt = getattr(_C, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)


def give_back_freed_memory() -> None:
    """Give the pages that are free in every thread's heap back to the system.

    The C library itself gives back what lies at the end of a heap only: after large images most would stay. Without
    glibc nothing happens.
    """
    trim = getattr(_C, "malloc_trim", None)
    if trim is not None:
        trim(0)


def keep_few_kernels(shapes: int = _PRODUCT_SHAPES) -> None:
    """Let PyTorch and oneDNN remember the products of so many ``shapes`` only, if called before the first product.

    oneDNN generates code for every shape; both keep what belongs to the last 1,024 of them, some 2 MB a shape. Packed
    batches bring new shapes each time, so that this grows for hours, for little: what returns mostly returns within a
    step. Values of these variables that are in the environment already are left as they are.
    """
    for variable in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(variable, str(shapes))
