"""Sizes by which kernels for a CPU are chosen."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# Tokens up to which attention keeps its probabilities for the backward pass, and lets documents of up to twice their
# length share a group. The probabilities of longer ones take more memory than the projections.
SHORT_SEQUENCE = 64
# oneDNN generates code for each new shape, which takes longer than a small product, and packed documents have new
# shapes at every step: matrix products of a training have a multiple of so many rows.
_ROW_MULTIPLE = 64


def pad_rows(x: Tensor) -> Tensor:
    """[T, D] → [T', D] with zeros behind the rows, T' the next multiple of 64; as it is on a GPU."""
    missing = -len(x) % _ROW_MULTIPLE if x.device.type == "cpu" and not torch.compiler.is_compiling() else 0
    return F.pad(x, (0, 0, 0, missing)) if missing else x
