"""The path to the GPU's variable-length kernel, with a plain function in the kernel's place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lcl_core.model.modeling_lcl import Attention
from lcl_core.ops import attention
from lcl_core.ops.attention import BidirectionalLayout, CausalLayout, VarlenLayout


def kernel(q: Tensor, k: Tensor, v: Tensor, begins: Tensor, ends: Tensor, *longest: int, **options: Any) -> Tensor:
    """What the kernel's documentation says, document by document: [T, heads, d]."""
    causal = options["window_size"] == (-1, 0)
    assert causal or options["window_size"] == (-1, -1)
    assert longest[0] == longest[1] >= int(begins.diff().max())
    assert begins.dtype == torch.int32
    parts = []
    for start, end in zip(begins[:-1].tolist(), ends[1:].tolist(), strict=True):
        one = (x[start:end].transpose(0, 1)[None] for x in (q, k, v))
        parts.append(F.scaled_dot_product_attention(*one, is_causal=causal)[0].transpose(0, 1))
    return torch.cat(parts)


@pytest.mark.parametrize(
    "layout",
    [
        CausalLayout.from_lengths([3, 7, 5, 7]),
        BidirectionalLayout.from_lengths([3, 7, 5, 7]),
        BidirectionalLayout.from_padded(11, torch.tensor([4, 11])),
    ],
)
def test_it_gives_what_the_groups_give(monkeypatch: pytest.MonkeyPatch, layout: VarlenLayout) -> None:
    torch.manual_seed(0)
    layer = Attention(width=24, heads=3)
    torch.nn.init.normal_(layer.in_proj_weight)
    norm = torch.nn.LayerNorm(24)
    x = torch.randn(22, 24)
    expected = layer(x, norm, layout, 0)
    monkeypatch.setattr(attention, "_varlen_kernel", lambda: kernel)
    monkeypatch.setattr(attention, "varlen_kernel_supports", lambda qkv: True)
    real = torch.ones(22, dtype=torch.bool)
    if layout.padding is None:
        real[4:11] = False  # padding, of which nobody reads anything
    torch.testing.assert_close(layer(x, norm, layout, 0)[real], expected[real])


def test_it_is_for_gpus_in_half_precision() -> None:
    assert not attention.varlen_kernel_supports(torch.zeros(2, 6, dtype=torch.bfloat16))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("head_width", [32, 64])
def test_the_real_kernel_follows_the_plain_one(head_width: int) -> None:
    layout = CausalLayout.from_lengths([130, 7, 64]).to(torch.device("cuda"))
    qkv = torch.randn(201, 3 * 2 * head_width, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    parts = qkv.view(201, 3, 2, head_width).unbind(1)
    plain = kernel(
        *parts, layout.cu_seqlens, layout.cu_seqlens, layout.max_seqlen, layout.max_seqlen, window_size=(-1, 0)
    ).flatten(1)
    ours = attention.varlen_attention(qkv, layout.cu_seqlens, layout.max_seqlen, 2)
    torch.testing.assert_close(ours, plain, atol=2e-2, rtol=2e-2)
    gradients = [torch.autograd.grad(out.square().sum(), qkv)[0] for out in (ours, plain)]
    torch.testing.assert_close(*gradients, atol=5e-2, rtol=5e-2)
