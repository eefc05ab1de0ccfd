"""The machine's own matrix peak, measured in the same run, so that utilisation means the same everywhere."""

from __future__ import annotations

import time

import torch


def matmul_peak(dtype: torch.dtype, device: torch.device | None = None, seconds: float = 1.0) -> float:
    """Best rate of a square matrix product with the default settings, FLOP/s."""
    place = device or torch.device("cpu")
    size = 2048 if place.type == "cpu" else 8192
    a, b = (torch.randn(size, size, device=place).to(dtype) for _ in range(2))
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        best = min(best, _timed(a, b))
    return 2.0 * size**3 / best


def _timed(a: torch.Tensor, b: torch.Tensor) -> float:
    start = time.perf_counter()
    a @ b
    if a.is_cuda:
        torch.cuda.synchronize(a.device)
    return time.perf_counter() - start
