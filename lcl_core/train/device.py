"""Where and in which precision a run computes. A GPU is used when there is one, without a setting."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16"]
_FP32_ERROR = 2e-6  # relative, of a product of 512-wide sums; fp32 gives 1e-7, operands rounded to bf16 2e-3


def pick_device() -> torch.device:
    """This process's GPU (by its local rank), or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The autocast context of a forward pass; never fp16, which a CPU computes hundreds of times slower."""
    half = computes_in(device, precision) == torch.bfloat16
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=half)


def computes_in(device: torch.device, precision: Precision) -> torch.dtype:
    """``auto`` is bf16 wherever the hardware multiplies it: on GPUs and on CPUs with AVX-512 BF16 or AMX."""
    half = precision == "bf16" or (precision == "auto" and _multiplies_bf16(device))
    return torch.bfloat16 if half else torch.float32


@contextmanager
def fast_fp32_products() -> Iterator[bool]:
    """Within, fp32 matrix products on the CPU go through oneDNN where that is still fp32.

    oneDNN is asked for by allowing it bf16 operands. On CPUs with AMX it does round them, on others it computes in
    fp32, faster than the default library on some. What it does is measured, and only an error of fp32's size is
    accepted; the same machine decides the same way each time, so that a resumed run computes as it did.

    Yields: whether oneDNN is used.
    """
    settings = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    accepted = product_error() <= _FP32_ERROR
    if not accepted:
        settings.fp32_precision = before
    try:
        yield accepted
    finally:
        settings.fp32_precision = before


def product_error(size: int = 512) -> float:
    """Relative error of an fp32 product on the CPU against float64, with the present settings."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(size, size, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    return float(((a @ b).double() - exact).norm() / exact.norm())


def _multiplies_bf16(device: torch.device) -> bool:
    return device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
