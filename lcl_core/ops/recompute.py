"""Parts of a block that keep less for the backward pass, and recompute the rest there.

The output of a normalisation or an activation is cheap to compute and as large as its input. Kept, both would be four
tenths of all that a block keeps; recomputed, they cost about a hundredth of its time.

Of weights they keep the parameters themselves, and cast them to the precision of products again in the backward pass.
A kept copy in bf16 would stay from forward to backward, also of weights that FSDP2 frees in between and gathers again.

Gradients that nobody needs, those of frozen parts, are not computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Callable[[Tensor], Tensor]
# oneDNN generates code for each new shape, which takes longer than a small product, and packed documents have new
# shapes at every step: matrix products of a training have a multiple of so many rows.
_ROW_MULTIPLE = 64


def pad_rows(x: Tensor) -> Tensor:
    """[T, D] → [T', D] with zeros behind the rows, T' the next multiple of 64; as it is on a GPU."""
    missing = -len(x) % _ROW_MULTIPLE if x.device.type == "cpu" and not torch.compiler.is_compiling() else 0
    return F.pad(x, (0, 0, 0, missing)) if missing else x


def norm_linear(x: Tensor, norm: nn.LayerNorm, weight: Tensor, bias: Tensor) -> Tensor:
    """norm(x) W^T + b of [T, W]; keeps ``x`` alone."""
    if _saves_nothing():
        return F.linear(norm(x), weight, bias)
    return _NormLinear.apply(x, norm.weight, norm.bias, norm.eps, weight, bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x W^T + b of [T, W]; keeps ``x`` and the parameters."""
    if _saves_nothing() or weight.dtype == _product_dtype(x):
        return F.linear(x, weight, bias)
    return _Linear.apply(x, weight, bias)


def norm_mlp(
    x: Tensor, norm: nn.LayerNorm, inner: nn.Linear, activation: Activation, outer: nn.Linear, keep_hidden: bool
) -> Tensor:
    """W2 activation(W1 norm(x) + b1) + b2 of [T, W].

    Keeps ``x`` and, with ``keep_hidden``, W1 norm(x) + b1 [T, H]; else that product is recomputed too.
    """
    if _saves_nothing():
        return outer(activation(inner(norm(x))))
    layers = inner.weight, inner.bias, outer.weight, outer.bias
    return _NormMLP.apply(x, norm.weight, norm.bias, norm.eps, activation, keep_hidden, *layers)


class _Linear(torch.autograd.Function):
    """Under autocast; the gradients are those of autocast's own product, to the bit."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        dtype = _product_dtype(x)
        ctx.dtype = x.dtype
        x = x.to(dtype)
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight.to(dtype), bias.to(dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        grad_x = (grad @ weight.to(x.dtype)).to(ctx.dtype) if for_x else None
        grad_weight = (grad.T @ x).to(weight.dtype) if for_weight else None
        return grad_x, grad_weight, grad.sum(0).to(weight.dtype) if for_bias else None


class _NormLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, shift: Tensor, eps: float, weight: Tensor, bias: Tensor) -> Tensor:
        normed, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], gain, shift, eps)
        ctx.save_for_backward(x, gain, shift, mean, rstd, weight)
        ctx.eps, ctx.dtype = eps, _product_dtype(x)
        return F.linear(normed.to(ctx.dtype), weight.to(ctx.dtype), bias.to(ctx.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, shift, mean, rstd, weight = ctx.saved_tensors
        *for_norm, _, for_weight, for_bias = ctx.needs_input_grad
        grad = grad.to(ctx.dtype)
        grad_weight = grad_bias = None
        if for_weight:
            normed = torch.native_layer_norm(x, x.shape[-1:], gain, shift, ctx.eps)[0].to(ctx.dtype)
            grad_weight = (grad.T @ normed).to(weight.dtype)
        if for_bias:
            grad_bias = grad.sum(0, dtype=torch.float32).to(weight.dtype)
        gradients: tuple[Tensor | None, ...] = (None, None, None)
        if any(for_norm):
            grad_normed = (grad @ weight.to(ctx.dtype)).to(x.dtype)
            gradients = _norm_backward(grad_normed, x, mean, rstd, gain, shift, for_norm)
        return *gradients, None, grad_weight, grad_bias


class _NormMLP(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gain: Tensor,
        shift: Tensor,
        eps: float,
        activation: Activation,
        keep_hidden: bool,
        inner: Tensor,
        inner_bias: Tensor,
        outer: Tensor,
        outer_bias: Tensor,
    ) -> Tensor:
        ctx.eps, ctx.activation, ctx.dtype = eps, activation, _product_dtype(x)
        normed, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], gain, shift, eps)
        hidden = F.linear(normed.to(ctx.dtype), inner.to(ctx.dtype), inner_bias.to(ctx.dtype))
        kept = hidden if keep_hidden else None
        ctx.save_for_backward(x, gain, shift, mean, rstd, inner, inner_bias, outer, kept)
        return F.linear(activation(hidden), outer.to(ctx.dtype), outer_bias.to(ctx.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, shift, mean, rstd, inner, inner_bias, outer, hidden = ctx.saved_tensors
        *for_norm, _, _, _, for_inner, for_inner_bias, for_outer, for_outer_bias = ctx.needs_input_grad
        grad, kept_dtype = grad.to(ctx.dtype), inner.dtype
        inner = inner.to(ctx.dtype)
        if hidden is None or for_inner:
            normed = torch.native_layer_norm(x, x.shape[-1:], gain, shift, ctx.eps)[0].to(ctx.dtype)
        if hidden is None:
            hidden = F.linear(normed, inner, inner_bias.to(ctx.dtype))
        with torch.enable_grad():
            hidden = hidden.detach().requires_grad_()
            activated = ctx.activation(hidden)
        grad_inner = grad_inner_bias = grad_outer = grad_outer_bias = None
        if for_outer:
            grad_outer = (grad.T @ activated.detach()).to(kept_dtype)
        if for_outer_bias:
            grad_outer_bias = grad.sum(0, dtype=torch.float32).to(kept_dtype)
        (grad_hidden,) = torch.autograd.grad(activated, hidden, grad @ outer.to(ctx.dtype))
        del hidden, activated
        if for_inner:
            grad_inner = (grad_hidden.T @ normed).to(kept_dtype)
        if for_inner_bias:
            grad_inner_bias = grad_hidden.sum(0, dtype=torch.float32).to(kept_dtype)
        gradients: tuple[Tensor | None, ...] = (None, None, None)
        if any(for_norm):
            grad_normed = (grad_hidden @ inner).to(x.dtype)
            gradients = _norm_backward(grad_normed, x, mean, rstd, gain, shift, for_norm)
        layer_gradients = grad_inner, grad_inner_bias, grad_outer, grad_outer_bias
        return *gradients, None, None, None, *layer_gradients


def _norm_backward(
    grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, gain: Tensor, shift: Tensor, needed: list[bool]
) -> tuple[Tensor | None, ...]:
    """Gradients of the input, the gain and the shift of a normalisation, as far as they are needed."""
    return torch.ops.aten.native_layer_norm_backward(grad, x, x.shape[-1:], mean, rstd, gain, shift, needed)


def _saves_nothing() -> bool:
    """Whether there is no backward pass, or a compiler chooses what to keep for it."""
    return not torch.is_grad_enabled() or torch.compiler.is_compiling()


def _product_dtype(x: Tensor) -> torch.dtype:
    """Precision of matrix products here: autocast's, or the input's."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
