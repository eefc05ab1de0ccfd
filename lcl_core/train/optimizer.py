"""AdamW with the authors' decay groups, and the learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from lcl_core.specs.pretrain import OptimizerSpec


def build_optimizer(
    model: nn.Module,
    lr: float,
    weight_decay: float = 0.2,
    betas: tuple[float, float] = (0.9, 0.98),
    eps: float = 1e-6,
) -> torch.optim.AdamW:
    """AdamW where every parameter of two or more dimensions is decayed and the rest is not."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
    plain = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)


def learning_rate(step: int, total_steps: int, spec: OptimizerSpec) -> float:
    """The rate of 0-based ``step``: linear warm-up lr (step + 1) / warm-up, then as ``spec.schedule`` says."""
    if step < spec.warmup_steps:
        return spec.lr * (step + 1) / spec.warmup_steps
    return spec.lr * _SCHEDULES[spec.schedule](step, total_steps, spec)


def _cosine(step: int, total_steps: int, spec: OptimizerSpec) -> float:
    done = (step - spec.warmup_steps) / max(total_steps - spec.warmup_steps, 1)
    return 0.5 * (1 + math.cos(math.pi * done))


def _constant(step: int, total_steps: int, spec: OptimizerSpec) -> float:
    return 1.0


def _constant_with_decay(step: int, total_steps: int, spec: OptimizerSpec) -> float:
    """1, then over the last ``decay_steps`` in a line to 0, which the step after the last would have."""
    return min(1.0, (total_steps - step) / max(spec.decay_steps, 1))


# share of the peak rate after the warm-up
_SCHEDULES: dict[str, Callable[[int, int, OptimizerSpec], float]] = {
    "cosine": _cosine,
    "constant": _constant,
    "constant_with_decay": _constant_with_decay,
}


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
