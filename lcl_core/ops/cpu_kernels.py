"""Kernels on a CPU that compute the same and round differently: which of them this process uses.

A training goes on with the kernels that it began with, so that an interrupted run ends with the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class CpuKernels:
    """One generation of kernels.

    Attributes:
        short_sequence: tokens up to which attention keeps its probabilities for the backward pass and lets documents of
            up to twice their length share a group. The probabilities of longer ones take more memory than projections.
        row_multiple: the matrix products of a training have a multiple of so many rows. oneDNN generates code for each
            new shape, which takes longer than a small product, and packed documents have new shapes at every step.
        patch_products: patches are embedded by a matrix product, in place of a convolution.
    """

    short_sequence: int
    row_multiple: int
    patch_products: bool


GENERATIONS = {1: CpuKernels(0, 1, patch_products=False), 2: CpuKernels(64, 64, patch_products=True)}
NEWEST = max(GENERATIONS)
_used = GENERATIONS[NEWEST]


def use_cpu_kernels(generation: int) -> None:
    """Compute with this generation in the whole process, which must not compute meanwhile."""
    global _used
    _used = GENERATIONS[generation]


def cpu_kernels() -> CpuKernels:
    """Those that this process uses."""
    return _used


def pad_rows(x: Tensor) -> Tensor:
    """[T, D] → [T', D] with zeros behind the rows, T' the next multiple of ``row_multiple``; as it is on a GPU."""
    missing = -len(x) % _used.row_multiple if x.device.type == "cpu" and not torch.compiler.is_compiling() else 0
    return F.pad(x, (0, 0, 0, missing)) if missing else x
