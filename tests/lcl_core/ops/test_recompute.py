"""What keeps less gives the same: outputs and gradients of the plain composition."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lcl_core.ops.recompute import norm_linear, norm_mlp

ROWS, WIDTH, HIDDEN = 7, 12, 40


@pytest.fixture
def layers() -> tuple[nn.LayerNorm, nn.Linear, nn.Linear]:
    torch.manual_seed(0)
    norm = nn.LayerNorm(WIDTH)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm, nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)


def gradients(forward: Callable[[Tensor], Tensor], parts: tuple[nn.Module, ...], bf16: bool) -> list[Tensor]:
    """The output, and the gradients of the input and of all parameters."""
    torch.manual_seed(1)
    x = torch.randn(ROWS, WIDTH, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
        out = forward(x)
    parameters = [each for part in parts for each in part.parameters()]
    return [out, *torch.autograd.grad((out.float() * torch.randn(out.shape)).sum(), [x, *parameters])]


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("keep_hidden", [False, True])
def test_a_perceptron(layers: Any, keep_hidden: bool, bf16: bool) -> None:
    norm, inner, outer = layers
    got = gradients(lambda x: norm_mlp(x, norm, inner, F.gelu, outer, keep_hidden), layers, bf16)
    wanted = gradients(lambda x: outer(F.gelu(inner(norm(x)))), layers, bf16)
    tolerance = {"rtol": 3e-2, "atol": 3e-2} if bf16 else {"rtol": 1e-5, "atol": 1e-5}
    for mine, plain in zip(got, wanted, strict=True):
        assert mine.dtype == plain.dtype
        torch.testing.assert_close(mine, plain, **tolerance)


@pytest.mark.parametrize("bf16", [False, True])
def test_a_normalised_product(layers: Any, bf16: bool) -> None:
    norm, inner, _ = layers
    got = gradients(lambda x: norm_linear(x, norm, inner.weight, inner.bias), (norm, inner), bf16)
    wanted = gradients(lambda x: inner(norm(x)), (norm, inner), bf16)
    tolerance = {"rtol": 3e-2, "atol": 3e-2} if bf16 else {"rtol": 1e-5, "atol": 1e-5}
    for mine, plain in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, plain, **tolerance)


def kept_rows(forward: Callable[[Tensor], Tensor]) -> set[tuple[int, ...]]:
    """Shapes of what is kept for the backward pass and grows with the rows."""
    shapes: set[tuple[int, ...]] = set()

    def note(tensor: Tensor) -> Tensor:
        if tensor.shape[0] == ROWS:
            shapes.add(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        forward(torch.randn(ROWS, WIDTH, requires_grad=True))
    return shapes


def test_what_is_kept(layers: Any) -> None:
    norm, inner, outer = layers
    statistics = {(ROWS, 1)}
    thrifty = kept_rows(lambda x: norm_mlp(x, norm, inner, F.gelu, outer, False))
    assert thrifty == {(ROWS, WIDTH)} | statistics
    assert kept_rows(lambda x: norm_mlp(x, norm, inner, F.gelu, outer, True)) == thrifty | {(ROWS, HIDDEN)}
