"""The gradient's norm and its clipping, for whole and for sharded parameters together."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The L2 norm over all gradients of all ranks, a scalar on the device; 0 where there is none."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    sharded: list[Tensor] = [gradient for gradient in gradients if isinstance(gradient, DTensor)]
    whole = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    norms = []
    for part in (whole, sharded):
        if part:
            norm = torch.nn.utils.get_total_norm(part)
            norms.append(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    return torch.stack(norms).norm() if norms else torch.zeros(())


@torch.no_grad()
def clip(parameters: Iterable[Tensor], limit: float, norm: Tensor) -> None:
    """Shorten the gradients so that ``norm`` becomes at most ``limit``."""
    if math.isinf(limit):
        return
    factor = (limit / (norm + 1e-6)).clamp(max=1.0)
    for parameter in parameters:
        if parameter.grad is not None:
            local = parameter.grad.to_local() if isinstance(parameter.grad, DTensor) else parameter.grad
            local.mul_(factor.to(local.device))
