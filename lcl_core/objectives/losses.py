"""Losses shared by the objectives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def contrastive_loss(image_features: Tensor, text_features: Tensor, logit_scale: Tensor) -> Tensor:
    """Symmetric InfoNCE of row-aligned pairs [M, E] (L2-normalised); NaN when M = 0.

    ``logit_scale`` is the logarithm of the inverse temperature. Computed in fp32.
    """
    logits = logit_scale.exp() * image_features.float() @ text_features.float().T
    target = torch.arange(len(logits), device=logits.device)
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum over rows of CE(x W^T, label), a chunk of rows at a time.

    The gradient is made together with the loss, so that no more than one chunk of full-vocabulary logits ever
    stands in memory and no logits are computed twice.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, labels: Tensor, chunk: int) -> Tensor:
        loss = x.new_zeros((), dtype=torch.float32)
        grad_x = torch.empty_like(x)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        for rows, wanted, grad_rows in zip(
            x.split(chunk), labels.split(chunk), grad_x.split(chunk), strict=True
        ):
            log_p = F.log_softmax((rows @ weight.T).float(), dim=-1)
            loss -= log_p.gather(1, wanted[:, None]).sum()
            grad_logits = log_p.exp_()
            grad_logits.scatter_add_(1, wanted[:, None], grad_logits.new_full((len(wanted), 1), -1.0))
            grad_logits = grad_logits.to(x.dtype)
            torch.mm(grad_logits, weight, out=grad_rows)
            grad_weight += grad_logits.T @ rows
        ctx.save_for_backward(grad_x, grad_weight)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_x, grad_weight = ctx.saved_tensors
        return grad_x * grad.to(grad_x.dtype), grad_weight * grad, None, None


def linear_cross_entropy(x: Tensor, weight: Tensor, labels: Tensor, chunk: int = 1024) -> Tensor:
    """Summed cross-entropy of ``x @ weight.T`` against ``labels``.

    Args:
        x: [K, D] head inputs at label positions only.
        weight: [V, D].
        labels: [K] long.
        chunk: rows whose logits may stand in memory at once.

    Returns:
        A scalar, fp32; 0 when K = 0.
    """
    if torch.is_autocast_enabled(x.device.type):
        half = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(half), weight.to(half)
    if not torch.is_grad_enabled():
        return _cross_entropy_sum(x, weight, labels, chunk)
    return _LinearCrossEntropy.apply(x, weight, labels, chunk)


def _cross_entropy_sum(x: Tensor, weight: Tensor, labels: Tensor, chunk: int) -> Tensor:
    total = x.new_zeros((), dtype=torch.float32)
    for rows, wanted in zip(x.split(chunk), labels.split(chunk), strict=True):
        total = total + F.cross_entropy((rows @ weight.T).float(), wanted, reduction="sum")
    return total
