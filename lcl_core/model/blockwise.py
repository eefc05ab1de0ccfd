"""Exact attention for the CPU, a block of queries at a time: matrix products at their full rate, no work on the right.

PyTorch's CPU kernel computes a good part of what a causal mask throws away, and its backward pass runs at a third of
the rate of plain products (docs/performance.md). Here a block of queries meets only the keys up to its own end. All
sequences of a batch are read from one projection and written to one output, without copies in between. Probabilities
are computed again in the backward pass, from the logarithm of each row's sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

LONGEST_BLOCKWISE = 1024  # tokens; beyond, PyTorch's kernel is about as fast
_BLOCK = 128  # queries

Groups = Sequence[tuple[int, int]]


def blockwise_attention(qkv: Tensor, groups: Groups, heads: int, *, causal: bool) -> Tensor:
    """softmax(q k^T / sqrt(d)) v of every sequence, heads side by side; softmax in fp32.

    Args:
        qkv: [P, 3D] projections of sequences laid end to end.
        groups: (sequences, their length) of each group; together they have P tokens.

    Returns:
        [P, D].
    """
    return _Blockwise.apply(qkv, groups, heads, causal)


class _Blockwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, groups: Groups, heads: int, causal: bool) -> Tensor:
        out = qkv.new_empty(len(qkv), qkv.shape[1] // 3)
        log_sums = qkv.new_empty(len(qkv), heads, dtype=torch.float32)
        for (q, k, v), rows, sums in zip(
            _sequences(qkv, groups, heads, 3), _rows(out, groups, heads), _rows(log_sums, groups, heads), strict=True
        ):
            for block in _blocks(q.shape[2], causal):
                scores = _scores(q, k, block, causal)
                sums[:, :, block.queries] = log_sum = scores.logsumexp(-1, keepdim=True)
                weights = scores.sub_(log_sum).exp_().to(q.dtype)
                rows[:, :, block.queries] = weights @ v[:, :, block.keys]
        ctx.groups, ctx.heads, ctx.causal = groups, heads, causal
        ctx.save_for_backward(qkv, out, log_sums)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        qkv, out, log_sums = ctx.saved_tensors
        grad_qkv = torch.empty_like(qkv)
        layout = ctx.groups, ctx.heads
        for projections, grads, *rows in zip(
            _sequences(qkv, *layout, 3),
            _sequences(grad_qkv, *layout, 3),
            _rows(grad, *layout),
            _rows(out, *layout),
            _rows(log_sums, *layout),
            strict=True,
        ):
            _backward(projections, grads, rows, ctx.causal)
        return grad_qkv, None, None, None


def _backward(
    projections: Sequence[Tensor], grads: Sequence[Tensor], rows: Sequence[Tensor], causal: bool
) -> None:
    """Fill ``grads`` of the q, k, v of one group of sequences.

    The last block comes first: where every key is seen it writes, and the others add.
    """
    (q, k, v), (grad_q, grad_k, grad_v), (grad, out, log_sums) = projections, grads, rows
    row_sums = (grad * out).sum(-1, keepdim=True, dtype=torch.float32)
    scale = q.shape[-1] ** -0.5
    for block in reversed(_blocks(q.shape[2], causal)):
        queries, keys = block.queries, block.keys
        weights = _scores(q, k, block, causal).sub_(log_sums[:, :, queries]).exp_()
        _put(grad_v[:, :, keys], weights.to(q.dtype).transpose(-1, -2) @ grad[:, :, queries], block)
        grad_scores = (grad[:, :, queries] @ v[:, :, keys].transpose(-1, -2)).float()
        grad_scores = grad_scores.sub_(row_sums[:, :, queries]).mul_(weights).mul_(scale).to(q.dtype)
        grad_q[:, :, queries] = grad_scores @ k[:, :, keys]
        _put(grad_k[:, :, keys], grad_scores.transpose(-1, -2) @ q[:, :, queries], block)


class _Block(NamedTuple):
    queries: slice
    keys: slice
    last: bool


def _blocks(length: int, causal: bool) -> list[_Block]:
    ends = [min(start + _BLOCK, length) for start in range(0, length, _BLOCK)]
    return [
        _Block(slice(number * _BLOCK, end), slice(0, end if causal else length), end == length)
        for number, end in enumerate(ends)
    ]


def _scores(q: Tensor, k: Tensor, block: _Block, causal: bool) -> Tensor:
    """[C, heads, queries, keys] fp32, -inf right of the diagonal."""
    scores = ((q[:, :, block.queries] * q.shape[-1] ** -0.5) @ k[:, :, block.keys].transpose(-1, -2)).float()
    if causal:
        square = scores[..., block.queries]
        square.masked_fill_(torch.ones(square.shape[-2:], dtype=torch.bool).triu_(1), float("-inf"))
    return scores


def _put(target: Tensor, value: Tensor, block: _Block) -> None:
    if block.last:
        target.copy_(value)
    else:
        target += value


def _sequences(x: Tensor, groups: Groups, heads: int, parts: int) -> Iterator[tuple[Tensor, ...]]:
    """[P, parts * D] → for each group the parts as views [C, heads, L, d]."""
    start = 0
    for count, length in groups:
        group = x[start : start + count * length].view(count, length, parts, heads, -1)
        yield tuple(group.permute(2, 0, 3, 1, 4).unbind())
        start += count * length


def _rows(x: Tensor, groups: Groups, heads: int) -> Iterator[Tensor]:
    return (part for (part,) in _sequences(x, groups, heads, 1))
