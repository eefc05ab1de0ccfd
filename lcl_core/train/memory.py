"""Memory of this process: how much it has needed at most, and how it is held."""

from __future__ import annotations

import ctypes
import resource
import sys

import torch

_C = ctypes.CDLL(None)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_NEVER = 2**31 - 1
_LARGE = 32 << 20  # bytes; the few blocks above are the vocabulary's, and leave holes that nothing else fills


def memory_gib() -> float:
    """Peak GPU memory where there is a GPU, else the process's peak resident set; GiB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
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
