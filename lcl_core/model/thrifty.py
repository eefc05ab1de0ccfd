"""Pieces of a block that keep less for the backward pass, and compute the rest again there.

What a normalisation or an activation gives is cheap to compute and as large as what it came from. Kept, both would be
four tenths of all that a block keeps; computed again, they cost about a hundredth of its time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Callable[[Tensor], Tensor]


def norm_linear(x: Tensor, norm: nn.LayerNorm, weight: Tensor, bias: Tensor) -> Tensor:
    """norm(x) W^T + b of [T, W]; keeps ``x`` alone."""
    if torch.compiler.is_compiling():  # the compiler chooses by itself what to keep
        return F.linear(norm(x), weight, bias)
    return _NormLinear.apply(x, norm.weight, norm.bias, norm.eps, weight, bias)


def activated_linear(h: Tensor, activation: Activation, weight: Tensor, bias: Tensor) -> Tensor:
    """activation(h) W^T + b of [T, H]; keeps ``h`` alone."""
    if torch.compiler.is_compiling():
        return F.linear(activation(h), weight, bias)
    return _ActivatedLinear.apply(h, activation, weight, bias)


class _NormLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, shift: Tensor, eps: float, weight: Tensor, bias: Tensor) -> Tensor:
        normed, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], gain, shift, eps)
        ctx.dtype = weight.dtype
        weight = weight.to(_product_dtype(x))
        ctx.save_for_backward(x, gain, shift, mean, rstd, weight)
        ctx.eps = eps
        return F.linear(normed.to(weight.dtype), weight, bias.to(weight.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, shift, mean, rstd, weight = ctx.saved_tensors
        grad = grad.to(weight.dtype)
        normed = torch.native_layer_norm(x, x.shape[-1:], gain, shift, ctx.eps)[0].to(weight.dtype)
        grad_weight = (grad.T @ normed).to(ctx.dtype)
        grad_bias = grad.sum(0, dtype=torch.float32).to(ctx.dtype)
        grad_normed = (grad @ weight).to(x.dtype)
        grad_x, grad_gain, grad_shift = torch.ops.aten.native_layer_norm_backward(
            grad_normed, x, x.shape[-1:], mean, rstd, gain, shift, [True, True, True]
        )
        return grad_x, grad_gain, grad_shift, None, grad_weight, grad_bias


class _ActivatedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, activation: Activation, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.activation, ctx.dtype = activation, weight.dtype
        weight = weight.to(h.dtype)
        ctx.save_for_backward(h, weight)
        return F.linear(activation(h), weight, bias.to(h.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        h, weight = ctx.saved_tensors
        grad = grad.to(h.dtype)
        with torch.enable_grad():
            h = h.detach().requires_grad_()
            activated = ctx.activation(h)
        (grad_h,) = torch.autograd.grad(activated, h, grad @ weight)
        grad_weight = (grad.T @ activated.detach()).to(ctx.dtype)
        return grad_h, None, grad_weight, grad.sum(0, dtype=torch.float32).to(ctx.dtype)


def _product_dtype(x: Tensor) -> torch.dtype:
    """In which matrix products are computed here: autocast's precision, or the input's."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
