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
Lengths = Sequence[Tensor | None]


def blockwise_attention(
    qkv: Tensor, groups: Groups, heads: int, *, causal: bool, lengths: Lengths | None = None
) -> Tensor:
    """softmax(q k^T / sqrt(d)) v of every sequence, heads side by side; softmax in fp32.

    Args:
        qkv: [P, 3D] projections of sequences laid end to end.
        groups: (sequences, their length) of each group; together they have P tokens.
        lengths: for each group how many keys of each of its sequences may be seen, [sequences] and at least 1; none:
            all of them.

    Returns:
        [P, D].
    """
    seen = lengths or [None] * len(groups)
    sights = [_sight(heads, length, causal, keys) for (_, length), keys in zip(groups, seen, strict=True)]
    if not torch.is_grad_enabled():  # nothing to keep
        return _mix(qkv, groups, heads, sights)[0]
    return _Blockwise.apply(qkv, groups, heads, sights)


class _Sight(NamedTuple):
    """Which keys the queries of a group see.

    Attributes:
        causal: only those up to their own place.
        beyond: [B, 1, L] true at keys that nobody sees; none where all may be seen.
    """

    causal: bool
    beyond: Tensor | None


class _Blockwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, groups: Groups, heads: int, sights: Sequence[_Sight]) -> Tensor:
        out, log_sums = _mix(qkv, groups, heads, sights)
        ctx.groups, ctx.heads, ctx.sights = groups, heads, sights
        ctx.save_for_backward(qkv, out, *log_sums)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        qkv, out, *log_sums = ctx.saved_tensors
        grad_qkv = torch.empty_like(qkv)
        layout = ctx.groups, ctx.heads
        for parts, targets, (grad_rows,), (rows,), log_sum, sight in zip(
            _views(qkv, *layout, 3),
            _views(grad_qkv, *layout, 3),
            _views(grad.to(qkv.dtype), *layout, 1),
            _views(out, *layout, 1),
            log_sums,
            ctx.sights,
            strict=True,
        ):
            weighted = _batched((grad_rows * rows).sum(-1, keepdim=True, dtype=torch.float32))
            q, k, v = map(_batched, parts)
            found = _gradients(q * _scale(q), k, v, _batched(grad_rows), log_sum, weighted, sight)
            found[0].mul_(_scale(q))
            for target, gradient in zip(targets, found, strict=True):
                target.copy_(gradient.view(target.shape))
        return grad_qkv, None, None, None


def _mix(qkv: Tensor, groups: Groups, heads: int, sights: Sequence[_Sight]) -> tuple[Tensor, list[Tensor]]:
    """[P, D], and of each group the log sums of exp scores."""
    out = qkv.new_empty(len(qkv), qkv.shape[1] // 3)
    log_sums = []
    layout = groups, heads
    for (q, k, v), (rows,), sight in zip(_views(qkv, *layout, 3), _views(out, *layout, 1), sights, strict=True):
        mixed, log_sum = _attend(_batched(q) * _scale(q), _batched(k), _batched(v), sight)
        rows.copy_(mixed.view(rows.shape))
        log_sums.append(log_sum)
    return out, log_sums


def _attend(q: Tensor, k: Tensor, v: Tensor, sight: _Sight) -> tuple[Tensor, Tensor]:
    """Scaled queries, keys, values [B, L, d] → what they mix [B, L, d], and log sums of exp scores [B, L, 1]."""
    mixed = torch.empty_like(q)
    log_sums = q.new_empty(*q.shape[:2], 1, dtype=torch.float32)
    for block in _blocks(q.shape[1], sight.causal):
        scores = _scores(q, k, block, sight)
        largest = scores.amax(-1, keepdim=True)
        mass = scores.sub_(largest).exp_().sum(-1, keepdim=True)
        log_sums[:, block.queries] = mass.log() + largest
        mixed[:, block.queries] = torch.bmm(scores.div_(mass).to(q.dtype), v[:, block.keys])
    return mixed, log_sums


def _gradients(
    q: Tensor, k: Tensor, v: Tensor, grad: Tensor, log_sums: Tensor, weighted: Tensor, sight: _Sight
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v [B, L, d].

    Args:
        weighted: [B, L, 1] inner product of each output row and its gradient.
    """
    grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for block in _blocks(q.shape[1], sight.causal):
        queries, keys = block
        weights = _scores(q, k, block, sight).sub_(log_sums[:, queries]).exp_()
        grad_v[:, keys].baddbmm_(weights.to(q.dtype).transpose(1, 2), grad[:, queries])
        grad_scores = torch.bmm(grad[:, queries], v[:, keys].transpose(1, 2)).float()
        grad_scores = grad_scores.sub_(weighted[:, queries]).mul_(weights).to(q.dtype)
        grad_q[:, queries] = torch.bmm(grad_scores, k[:, keys])
        grad_k[:, keys].baddbmm_(grad_scores.transpose(1, 2), q[:, queries])
    return grad_q, grad_k, grad_v


class _Block(NamedTuple):
    queries: slice
    keys: slice


def _blocks(length: int, causal: bool) -> list[_Block]:
    """Blocks of queries, and the keys that each sees."""
    ends = [min(start + _BLOCK, length) for start in range(0, length, _BLOCK)]
    return [_Block(slice(i * _BLOCK, end), slice(0, end if causal else length)) for i, end in enumerate(ends)]


def _sight(heads: int, length: int, causal: bool, seen: Tensor | None) -> _Sight:
    if seen is None:
        return _Sight(causal, None)
    beyond = torch.arange(length) >= seen.repeat_interleave(heads)[:, None]
    return _Sight(causal, beyond[:, None])


def _scores(q: Tensor, k: Tensor, block: _Block, sight: _Sight) -> Tensor:
    """[B, queries, keys] fp32, -inf at keys that are not seen."""
    scores = torch.bmm(q[:, block.queries], k[:, block.keys].transpose(1, 2)).float()
    if sight.beyond is not None:
        scores.masked_fill_(sight.beyond[:, :, block.keys], float("-inf"))
    if sight.causal:
        square = scores[:, :, block.queries]
        square.masked_fill_(torch.ones(square.shape[1:], dtype=torch.bool).triu_(1), float("-inf"))
    return scores


def _scale(q: Tensor) -> float:
    return q.shape[-1] ** -0.5


def _views(x: Tensor, groups: Groups, heads: int, parts: int) -> Iterator[tuple[Tensor, ...]]:
    """[P, parts * D] → for each group the parts as views [C, heads, L, d]."""
    start = 0
    for count, length in groups:
        group = x[start : start + count * length].view(count, length, parts, heads, -1)
        yield tuple(group.permute(2, 0, 3, 1, 4).unbind())
        start += count * length


def _batched(x: Tensor) -> Tensor:
    """[C, heads, L, d] → [C * heads, L, d], contiguous: copied once instead of by every product."""
    return x.flatten(0, 1).contiguous()
