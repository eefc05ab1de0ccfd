"""Language-model head and cross-entropy in one: the logits of all labels are never in memory at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lcl_core.ops.recompute import pad_rows

_LOGIT_BYTES = 32 << 20  # of a chunk's logits in fp32
_HALF_LOGIT_BYTES = 192 << 20  # in half precision every chunk costs a pass over the weight's fp32 gradient: take few
_CACHED_ROWS = 16  # rows turned into probabilities at a time on a CPU: their fp32 copies stay in its cache


def linear_cross_entropy(x: Tensor, weight: Tensor, labels: Tensor, chunk: int | None = None) -> Tensor:
    """Summed cross-entropy of ``x @ weight.T`` against ``labels``.

    Args:
        x: [K, D] head inputs at label positions only.
        weight: [V, D].
        labels: [K] long.
        chunk: rows whose logits are in memory at once; None: as many as 32 MiB hold, 192 MiB in half precision.

    Returns:
        A scalar, fp32; 0 when K = 0.
    """
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    rows = chunk or _rows(x, weight)
    if not torch.is_grad_enabled():
        return _sum_without_gradient(x, weight.to(x.dtype), labels, rows)
    return _LinearCrossEntropy.apply(x, weight, labels, rows)


@torch.no_grad()
def count_correct(x: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """How many rows of ``x @ weight.T`` are largest at their label; scalar, fp32. Arguments as above."""
    rows = _rows(x, weight)
    correct = torch.zeros((), device=x.device)
    for inputs, target in zip(x.split(rows), labels.split(rows), strict=True):
        correct += (F.linear(inputs, weight).argmax(dim=1) == target).sum()
    return correct


def _rows(x: Tensor, weight: Tensor) -> int:
    """Rows of a chunk: as few chunks as the logits' bytes allow, of equal size."""
    allowed = _LOGIT_BYTES if x.element_size() > 2 else _HALF_LOGIT_BYTES
    most = max(1, allowed // (len(weight) * x.element_size()))
    chunks = max(1, math.ceil(len(x) / most))
    return max(1, math.ceil(len(x) / chunks))


class _LinearCrossEntropy(torch.autograd.Function):
    """The gradient is computed together with the loss, so no logits are computed twice.

    Probabilities overwrite their logits. The weight is rounded to the inputs' precision here, so that
    its gradient, summed in fp32, reaches the parameter unrounded. The gradient of a frozen operand is not computed.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, labels: Tensor, rows: int) -> Tensor:
        loss = x.new_zeros((), dtype=torch.float32)
        weight = weight.to(x.dtype)
        for_x, for_weight, *_ = ctx.needs_input_grad
        grad_x = torch.empty_like(x) if for_x else None
        grad_weight = _WeightGradient(weight) if for_weight else None
        buffer = x.new_empty(len(pad_rows(x[:rows])), len(weight))
        parts = x.split(rows)
        grad_parts: Sequence[Tensor | None] = [None] * len(parts) if grad_x is None else grad_x.split(rows)
        for inputs, target, grad_inputs in zip(parts, labels.split(rows), grad_parts, strict=True):
            padded = pad_rows(inputs)
            logits = buffer[: len(padded)]
            torch.mm(padded, weight.T, out=logits)
            loss += _to_gradient(logits[: len(inputs)], target)
            logits[len(inputs) :] = 0
            if grad_inputs is not None and len(padded) == len(inputs):
                torch.mm(logits, weight, out=grad_inputs)
            elif grad_inputs is not None:
                grad_inputs.copy_((logits @ weight)[: len(inputs)])
            if grad_weight is not None:
                grad_weight.add(logits.T, padded)
        ctx.grads = grad_x, None if grad_weight is None else grad_weight.total
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.grads
        del ctx.grads  # scaled in place: a second backward pass must fail, not be wrong
        return *(None if each is None else each.mul_(grad) for each in gradients), None, None


def _to_gradient(logits: Tensor, labels: Tensor) -> Tensor:
    """Overwrite logits with d loss / d logits = softmax - one-hot. Returns: the loss summed over rows, fp32."""
    total = logits.new_zeros((), dtype=torch.float32)
    rows = _CACHED_ROWS if logits.device.type == "cpu" else len(logits)
    for part, target in zip(logits.split(rows), labels.split(rows), strict=True):
        p = part.float() if part.dtype != torch.float32 else part
        label = target[:, None]
        picked = p.gather(1, label)
        largest = p.amax(1, keepdim=True)
        mass = p.sub_(largest).exp_().sum(1, keepdim=True)
        total += (mass.log() + largest - picked).sum()
        p.div_(mass).scatter_add_(1, label, p.new_full(label.shape, -1.0))
        if p is not part:
            part.copy_(p)
    return total


class _WeightGradient:
    """The sum of products, in fp32 whatever the operands are; ``total`` is fp32 and shaped as the weight.

    Half-precision products reuse one buffer: the system would have to clear a new one each time, page by page, which
    took as long as the product.
    """

    def __init__(self, weight: Tensor) -> None:
        self._sum: Tensor | None = None
        self._product: Tensor | None = None
        self._weight = weight

    def add(self, a: Tensor, b: Tensor) -> None:
        if a.dtype == torch.float32:
            self._sum = a @ b if self._sum is None else self._sum.addmm_(a, b)
            return
        self._product = torch.empty_like(self._weight) if self._product is None else self._product
        torch.mm(a, b, out=self._product)
        self._sum = self._product.float() if self._sum is None else self._sum.add_(self._product)

    @property
    def total(self) -> Tensor:
        return torch.zeros_like(self._weight, dtype=torch.float32) if self._sum is None else self._sum


def _sum_without_gradient(x: Tensor, weight: Tensor, labels: Tensor, rows: int) -> Tensor:
    total = x.new_zeros((), dtype=torch.float32)
    for inputs, target in zip(x.split(rows), labels.split(rows), strict=True):
        total += F.cross_entropy((inputs @ weight.T).float(), target, reduction="sum")
    return total
