"""The state of the random numbers that a step may draw: dropout, initialisation, sampling on CPU or GPU."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def rng_tensors() -> dict[str, Tensor]:
    """torch's generators: of the CPU and, where there is one, of this process's GPU. Each rank has its own."""
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    return tensors


def restore_rng(tensors: Mapping[str, Tensor]) -> None:
    """Go on as after ``rng_tensors``. A run that moved between CPU and GPU keeps the part that applies."""
    if "cpu" in tensors:
        torch.set_rng_state(tensors["cpu"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
