"""Attention over packed documents against PyTorch's, document by document, in both directions and in one."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from lcl_core.model.modeling_lcl import Attention
from lcl_core.ops import attention
from lcl_core.ops.attention import BidirectionalLayout, CausalLayout

RAGGED = [3, 7, 5, 7, 160, 150]  # several blocks of queries, and groups with padding
HEADS, WIDTH = 3, 24


@pytest.fixture(params=["blockwise", "PyTorch's kernel"])
def layer(request, monkeypatch):
    if request.param != "blockwise":
        monkeypatch.setattr(attention, "MAX_BLOCKWISE_LENGTH", 0)
    torch.manual_seed(0)
    layer = Attention(WIDTH, HEADS)
    torch.nn.init.normal_(layer.in_proj_weight, std=0.3)
    return layer.double()


def plainly(layer, norm, x, causal):
    """One document [L, D]."""
    qkv = F.linear(norm(x), layer.in_proj_weight, layer.in_proj_bias)
    q, k, v = qkv.view(len(x), 3, HEADS, -1).permute(1, 2, 0, 3)
    scores = q @ k.transpose(1, 2) * (WIDTH // HEADS) ** -0.5
    if causal:
        scores = scores.masked_fill(torch.ones(len(x), len(x)).triu(1).bool(), float("-inf"))
    return layer.out_proj((scores.softmax(-1) @ v).transpose(0, 1).flatten(1))


def compared(layer, layout, x, documents):
    """Outputs and gradients at the documents' tokens are those of each document alone; elsewhere nothing is learnt."""
    norm = torch.nn.LayerNorm(WIDTH).double()
    x.requires_grad_()
    weights = torch.randn(x.shape, dtype=torch.float64)
    ours = layer(x, norm, layout, 0)
    alone = [plainly(layer, norm, x[document], layout.causal) for document in documents]
    for document, expected in zip(documents, alone, strict=True):
        torch.testing.assert_close(ours[document], expected, atol=1e-6, rtol=1e-5)
    inputs = (x, layer.in_proj_weight)
    kept = [(weights[document], document) for document in documents]
    found = torch.autograd.grad(sum((ours[document] * weight).sum() for weight, document in kept), inputs)
    expected = torch.autograd.grad(
        sum((out * weight).sum() for out, (weight, _) in zip(alone, kept, strict=True)), inputs
    )
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [CausalLayout, BidirectionalLayout])
def test_documents_of_any_length(layer, kind):
    torch.manual_seed(1)
    ends = torch.tensor(RAGGED).cumsum(0).tolist()
    documents = [slice(end - length, end) for end, length in zip(ends, RAGGED, strict=True)]
    compared(layer, kind.from_lengths(RAGGED), torch.randn(sum(RAGGED), WIDTH, dtype=torch.float64), documents)


def test_rows_whose_lengths_the_host_does_not_know(layer):
    torch.manual_seed(2)
    lengths = [4, 9, 1]
    documents = [slice(9 * row, 9 * row + length) for row, length in enumerate(lengths)]
    layout = BidirectionalLayout.from_padded(9, torch.tensor(lengths))
    compared(layer, layout, torch.randn(27, WIDTH, dtype=torch.float64), documents)


def test_padding_is_hidden_only_where_it_would_be_seen():
    causal, full = CausalLayout.from_lengths([7, 6, 3, 3]), BidirectionalLayout.from_lengths([7, 6, 3, 3])
    assert causal.groups == full.groups == ((2, 7), (2, 3))
    assert causal.lengths == (None, None)
    assert full.lengths[0] is not None
    assert full.lengths[0].tolist() == [7, 6]
    assert full.lengths[1] is None
