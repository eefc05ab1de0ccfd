"""How much memory this process has needed at most."""

from __future__ import annotations

import resource
import sys

import torch


def memory_gib() -> float:
    """Peak GPU memory where there is a GPU, else the process's peak resident set; GiB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
