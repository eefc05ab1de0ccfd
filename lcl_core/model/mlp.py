"""The two-layer perceptron of a transformer block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x), OpenAI CLIP's approximation; used only when asked for."""
    return x * torch.sigmoid(1.702 * x)


Activation = Callable[[Tensor], Tensor]
ACTIVATIONS: dict[str, Activation] = {"gelu": F.gelu, "quick_gelu": quick_gelu}


class MLP(nn.Module):
    """W2 act(W1 x)."""

    def __init__(self, width: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, hidden)
        self.activation = ACTIVATIONS[activation]
        self.c_proj = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return _ActivatedLinear.apply(self.c_fc(x), self.c_proj.weight, self.c_proj.bias, self.activation)


class _ActivatedLinear(torch.autograd.Function):
    """act(h) W^T + b. The activation is computed again in the backward pass: keeping it would cost a quarter of all
    that a block keeps, computing it costs about a hundredth of its time."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, bias: Tensor, activation: Activation) -> Tensor:
        ctx.activation = activation
        ctx.save_for_backward(h, weight)
        return F.linear(activation(h), weight.to(h.dtype), bias.to(h.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        h, weight = ctx.saved_tensors
        grad = grad.to(h.dtype)
        with torch.enable_grad():
            h = h.detach().requires_grad_()
            activated = ctx.activation(h)
        (grad_h,) = torch.autograd.grad(activated, h, grad @ weight.to(h.dtype))
        grad_weight = grad.T @ activated.detach()
        return grad_h, grad_weight.to(weight.dtype), grad.sum(0, dtype=torch.float32).to(weight.dtype), None
