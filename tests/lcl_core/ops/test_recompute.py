"""What keeps less gives the same: outputs and gradients of the plain composition."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from lcl_core.ops.recompute import linear, norm_linear, norm_mlp

ROWS, WIDTH, HIDDEN = 7, 12, 40


@pytest.fixture
def layers():
    torch.manual_seed(0)
    norm = nn.LayerNorm(WIDTH)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm, nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)


def gradients(forward, parts, bf16):
    """The output, and the gradients of the input and of all parameters."""
    torch.manual_seed(1)
    x = torch.randn(ROWS, WIDTH, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
        out = forward(x)
    parameters = [each for part in parts for each in part.parameters()]
    return [out, *torch.autograd.grad((out.float() * torch.randn(out.shape)).sum(), [x, *parameters])]


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("keep_hidden", [False, True])
def test_a_perceptron(layers, keep_hidden, bf16):
    norm, inner, outer = layers
    got = gradients(lambda x: norm_mlp(x, norm, inner, F.gelu, outer, keep_hidden), layers, bf16)
    wanted = gradients(lambda x: outer(F.gelu(inner(norm(x)))), layers, bf16)
    tolerance = {"rtol": 3e-2, "atol": 3e-2} if bf16 else {"rtol": 1e-5, "atol": 1e-5}
    for mine, plain in zip(got, wanted, strict=True):
        assert mine.dtype == plain.dtype
        torch.testing.assert_close(mine, plain, **tolerance)


@pytest.mark.parametrize("bf16", [False, True])
def test_a_normalised_product(layers, bf16):
    norm, inner, _ = layers
    got = gradients(lambda x: norm_linear(x, norm, inner.weight, inner.bias), (norm, inner), bf16)
    wanted = gradients(lambda x: inner(norm(x)), (norm, inner), bf16)
    tolerance = {"rtol": 3e-2, "atol": 3e-2} if bf16 else {"rtol": 1e-5, "atol": 1e-5}
    for mine, plain in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, plain, **tolerance)


FORMS = {  # and the products that make gradients of weights
    "linear": (1, lambda x, norm, inner, outer: linear(x, inner.weight, inner.bias)),
    "norm_linear": (1, lambda x, norm, inner, outer: norm_linear(x, norm, inner.weight, inner.bias)),
    "norm_mlp": (2, lambda x, norm, inner, outer: norm_mlp(x, norm, inner, F.gelu, outer, True)),
    "norm_mlp recomputed": (2, lambda x, norm, inner, outer: norm_mlp(x, norm, inner, F.gelu, outer, False)),
}


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", FORMS)
def test_gradients_of_frozen_parts_are_not_computed(layers, name, bf16):
    products, form = FORMS[name]
    parameters = [each for layer in layers for each in layer.parameters()]

    def backward(frozen, of_x=True):
        """Gradients of the input and of the parameters, and operations of the backward pass."""
        torch.manual_seed(1)
        x = torch.randn(ROWS, WIDTH, requires_grad=of_x)
        for each in parameters:
            each.requires_grad_(not frozen)
            each.grad = None
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            out = form(x, *layers)
        with FlopCounterMode(display=False) as counter:
            out.float().square().sum().backward()
        return [x.grad, *(each.grad for each in parameters)], counter.get_total_flops()

    whole, all_operations = backward(frozen=False)
    alone, operations = backward(frozen=True)
    assert alone[1:] == [None] * len(parameters)
    torch.testing.assert_close(alone[0], whole[0], atol=0, rtol=0)
    assert all_operations - operations == products * 2 * ROWS * WIDTH * HIDDEN
    of_weights, _ = backward(frozen=False, of_x=False)
    torch.testing.assert_close(of_weights[1:], whole[1:], atol=0, rtol=0)


@pytest.mark.parametrize("bf16", [False, True])
def test_a_product_is_the_plain_one_to_the_bit(layers, bf16):
    _, inner, _ = layers
    got = gradients(lambda x: linear(x, inner.weight, inner.bias), (inner,), bf16)
    for mine, plain in zip(got, gradients(inner, (inner,), bf16), strict=True):
        assert mine.dtype == plain.dtype
        assert torch.equal(mine, plain)
