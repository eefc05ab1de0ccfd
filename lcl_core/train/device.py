"""Where and in which precision a run computes. A GPU is used when there is one, without a setting."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16"]


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """The autocast context of a forward pass; never fp16, which a CPU computes hundreds of times slower.

    ``auto`` is bf16 wherever the hardware multiplies it: on GPUs and on CPUs with AVX-512 BF16 or AMX.
    """
    if precision == "bf16" or (precision == "auto" and _multiplies_bf16(device)):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def _multiplies_bf16(device: torch.device) -> bool:
    return device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
