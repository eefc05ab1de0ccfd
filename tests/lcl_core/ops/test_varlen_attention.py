"""The variable-length kernel of GPUs: which calls of it a trial accepts, and attention through it.

Functions with the signature and refusals of several kernels are in its place, on the CPU.
"""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from lcl_core.model.modeling_lcl import Attention
from lcl_core.model.transformer import Transformer
from lcl_core.ops import attention
from lcl_core.ops.attention import BidirectionalLayout, CausalLayout

CPU, BF16 = torch.device("cpu"), torch.bfloat16


def by_document(q, k, v, ends, causal):
    """What the kernel's documentation says, document by document: [T, heads, d]."""
    parts = []
    for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        one = (x[start:end].transpose(0, 1)[None] for x in (q, k, v))
        parts.append(F.scaled_dot_product_attention(*one, is_causal=causal)[0].transpose(0, 1))
    return torch.cat(parts)


class Calls:
    """Kernels of several versions, and how each was called."""

    def __init__(self):
        self.options: list[dict[str, Any]] = []

    def _run(self, parts, begins, ends, longest, **options):
        assert begins.dtype == torch.int32
        assert longest >= int(ends.diff().max())
        self.options.append(options)
        causal = options.get("window_size") == (-1, 0)
        return by_document(*parts, ends, causal)

    def splits(self, q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size=(-1, -1), num_splits=None):
        return self._run((q, k, v), cu_seq_q, cu_seq_k, max_k, window_size=window_size, num_splits=num_splits)

    def flash_attention_2(self, *args, window_size=(-1, -1), num_splits=None):
        if num_splits is not None:
            raise RuntimeError("num_splits requires FA3\nException raised from mha_varlen_fwd")
        return self.splits(*args, window_size=window_size)

    def refuses(self, *args, window_size=(-1, -1), num_splits=None):
        self.options.append({})
        raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.\nException raised from mha_varlen_fwd")

    def loses_empty_documents(
        self, q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size=(-1, -1), num_splits=None
    ):
        out = self._run((q, k, v), cu_seq_q, cu_seq_k, max_k, window_size=window_size)
        return out * (float("nan") if bool((cu_seq_k.diff() == 0).any()) else 1.0)

    def ignores_the_window(self, q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size=(-1, -1), num_splits=None):
        return self._run((q, k, v), cu_seq_q, cu_seq_k, max_k)


@pytest.fixture(autouse=True)
def forgotten_trials():
    attention._varlen_options.cache_clear()
    yield
    attention._varlen_options.cache_clear()


@pytest.fixture
def install(monkeypatch):
    """Put ``kernel`` in the place of PyTorch's, and let it run on CPUs."""

    def installed(kernel):
        monkeypatch.setattr(attention, "_import_varlen_attn", lambda: kernel)
        monkeypatch.setattr(attention, "_VARLEN_DEVICES", ("cpu",))

    return installed


CAUSAL, SPLIT_ONCE = {"window_size": (-1, 0)}, {"num_splits": 1}


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("splits", CAUSAL | SPLIT_ONCE),
        ("flash_attention_2", CAUSAL | {"num_splits": None}),
    ],
)
@pytest.mark.parametrize("head_width", [8, 32, 96, 256])
def test_each_version_is_called_as_it_allows(install, caplog, version, expected, head_width):
    calls = Calls()
    install(getattr(calls, version))
    qkv = torch.randn(9, 3 * 2 * head_width).to(BF16)
    layout = CausalLayout.from_lengths([4, 5])
    found = attention.attend(qkv, 2, layout, 0)
    trials = len(calls.options) - 1
    assert calls.options[-1] == expected
    parts = qkv.view(9, 3, 2, head_width).unbind(1)
    torch.testing.assert_close(found, by_document(*parts, layout.cu_seqlens, True).flatten(1))
    attention.attend(qkv, 2, layout, 0)
    assert len(calls.options) == trials + 2, "the trial is made once"
    assert not caplog.records


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("refuses", "RuntimeError: FlashAttention only supports Ampere GPUs or newer."),
        ("loses_empty_documents", "off by nan"),
        ("ignores_the_window", "off by"),
    ],
)
def test_a_kernel_that_fails_the_trial_is_replaced(install, caplog, version, reason):
    calls = Calls()
    install(getattr(calls, version))
    qkv = torch.randn(9, 3 * 2 * 32).to(BF16)
    layout = CausalLayout.from_lengths([4, 5])
    with caplog.at_level(logging.WARNING):
        found = [attention.attend(qkv, 2, layout, 0) for _ in range(3)]
    parts = qkv.view(9, 3, 2, 32).unbind(1)
    expected = by_document(*parts, layout.cu_seqlens, True).flatten(1)
    torch.testing.assert_close(found[0], expected, atol=2e-2, rtol=2e-2)
    [record] = caplog.records
    assert reason in record.getMessage()
    assert "\n" not in record.getMessage()
    assert len(calls.options) <= 4


def test_the_trial_may_happen_in_a_checkpointed_block(install):
    torch.manual_seed(0)
    stack = Transformer(width=64, layers=2, heads=2, mlp_ratio=2.0, activation="gelu")
    for block in stack.blocks:
        torch.nn.init.normal_(block.attn.in_proj_weight, std=0.1)
    x, layout = torch.randn(9, 64), CausalLayout.from_lengths([4, 5])
    calls = Calls()
    install(calls.splits)

    def gradients(checkpointing):
        stack.checkpointing = checkpointing
        with torch.autocast("cpu", torch.bfloat16):
            out = stack(x, layout)
        return list(torch.autograd.grad(out.float().square().sum(), list(stack.parameters())))

    found = gradients(checkpointing=True)
    assert calls.options
    torch.testing.assert_close(found, gradients(checkpointing=False), atol=0, rtol=0)


@pytest.mark.parametrize(
    "layout",
    [
        CausalLayout.from_lengths([3, 7, 5, 7]),
        BidirectionalLayout.from_lengths([3, 7, 5, 7]),
        BidirectionalLayout.from_padded(11, torch.tensor([4, 11])),
    ],
)
def test_it_gives_what_the_groups_give(monkeypatch, install, layout):
    torch.manual_seed(0)
    layer = Attention(width=24, heads=3)
    torch.nn.init.normal_(layer.in_proj_weight)
    norm = torch.nn.LayerNorm(24)
    x = torch.randn(22, 24)
    expected = layer(x, norm, layout, 0)
    calls = Calls()
    install(calls.splits)
    monkeypatch.setattr(attention, "_VARLEN_DTYPES", (torch.float32,))
    real = torch.ones(22, dtype=torch.bool)
    if layout.padding is None:
        real[4:11] = False  # padding, of which nobody reads anything
    torch.testing.assert_close(layer(x, norm, layout, 0)[real], expected[real])
    assert calls.options


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: benchmarks gpu runs the same on one")
@pytest.mark.parametrize("head_width", [32, 64])
def test_the_real_kernel_follows_the_plain_one(head_width):
    layout = CausalLayout.from_lengths([130, 7, 64]).to(torch.device("cuda"))
    qkv = torch.randn(201, 3 * 2 * head_width, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    plain = by_document(*qkv.view(201, 3, 2, head_width).unbind(1), layout.cu_seqlens, True).flatten(1)
    ours = attention.varlen_attention(qkv, layout.cu_seqlens, layout.max_seqlen, 2)
    torch.testing.assert_close(ours, plain, atol=2e-2, rtol=2e-2)
    gradients = [torch.autograd.grad(out.square().sum(), qkv)[0] for out in (ours, plain)]
    torch.testing.assert_close(*gradients, atol=5e-2, rtol=5e-2)
