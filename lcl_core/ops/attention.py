"""Self-attention over sequences of equal length and over packed documents of any length.

Three implementations compute the same: PyTorch's variable-length kernel on GPUs in half precision, exact blockwise
attention on CPUs, and ``scaled_dot_product_attention`` elsewhere. On the CPU a block of queries meets only the keys up
to its own end: PyTorch's kernel computes a good part of what a causal mask drops, and its backward pass runs at a third
of the rate of plain matrix products (docs/performance.md). Probabilities are recomputed in the backward pass from the
logarithm of each row's sum.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lcl_core.ops.recompute import norm_linear


class _PadRows(torch.autograd.Function):
    """``x[index]`` where every row that matters is taken exactly once.

    The general backward of indexing must add up gradients of rows taken several times. Here ``inverse`` names for
    each row of ``x`` the one place it went to, so the backward is a plain gather. Extra places (padding) may repeat
    any row: their gradient is zero, because attention never reads what lies to the right of a document.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return grad.index_select(0, inverse), None, None


class _UnpadRows(torch.autograd.Function):
    """The opposite of :class:`_TakeRows`: keep of ``x`` the rows that are not padding."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor, keep: Tensor) -> Tensor:
        ctx.save_for_backward(index, keep)
        return x.index_select(0, inverse)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        index, keep = ctx.saved_tensors
        return grad.index_select(0, index) * keep, None, None, None


def pad_rows(x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
    """Rows ``index`` [P] of ``x`` [T, ...] → [P, ...]; ``inverse`` [T] with ``index[inverse] == arange(T)``."""
    return _PadRows.apply(x, index, inverse)


def unpad_rows(x: Tensor, index: Tensor, inverse: Tensor, keep: Tensor) -> Tensor:
    """Undo :func:`take_rows`: [P, ...] → [T, ...]; ``keep`` [P, 1] is 0 at padding."""
    return _UnpadRows.apply(x, index, inverse, keep)


_HALF = (torch.bfloat16, torch.float16)
# any number of tokens to the left; to the right none, or any number
_CAUSAL, _FULL = (-1, 0), (-1, -1)


def varlen_kernel_supports(qkv: Tensor) -> bool:
    """Whether the kernel can compute this: on a GPU, in half precision, with a PyTorch that has it (2.13 on)."""
    return qkv.is_cuda and qkv.dtype in _HALF and _varlen_kernel() is not None


def varlen_attention(qkv: Tensor, ends: Tensor, longest: int, heads: int, causal: bool = True) -> Tensor:
    """softmax(q k^T / sqrt(d)) v within each document.

    Args:
        qkv: [T, 3D] projections.
        ends: int32 [documents + 1] where documents begin and end.
        longest: tokens of the longest one.

    Returns:
        [T, D].
    """
    kernel = _varlen_kernel()
    assert kernel is not None
    q, k, v = qkv.view(len(qkv), 3, heads, -1).unbind(1)
    # one split: a document's output must not depend on what it is packed with, to the last bit
    window = _CAUSAL if causal else _FULL
    mixed = kernel(q, k, v, ends, ends, longest, longest, window_size=window, num_splits=1)
    return mixed.flatten(1)


@cache
def _varlen_kernel() -> Callable[..., Any] | None:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = inspect.signature(varlen_attn).parameters
    return varlen_attn if {"window_size", "num_splits"} <= known.keys() else None


MAX_BLOCKWISE_LENGTH = 1024  # tokens; beyond, PyTorch's kernel is about as fast
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
    sights = [_key_mask(heads, length, causal, keys) for (_, length), keys in zip(groups, seen, strict=True)]
    if not torch.is_grad_enabled():  # nothing to keep
        return _forward_groups(qkv, groups, heads, sights)[0]
    return _Blockwise.apply(qkv, groups, heads, sights)


class _KeyMask(NamedTuple):
    """Which keys the queries of a group see.

    Attributes:
        causal: only those up to their own place.
        beyond: [B, 1, L] true at keys that nobody sees; none where all may be seen.
    """

    causal: bool
    beyond: Tensor | None


class _Blockwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, groups: Groups, heads: int, sights: Sequence[_KeyMask]) -> Tensor:
        out, log_sums = _forward_groups(qkv, groups, heads, sights)
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
            found = _backward_blocks(q * _scale(q), k, v, _batched(grad_rows), log_sum, weighted, sight)
            found[0].mul_(_scale(q))
            for target, gradient in zip(targets, found, strict=True):
                target.copy_(gradient.view(target.shape))
        return grad_qkv, None, None, None


def _forward_groups(qkv: Tensor, groups: Groups, heads: int, sights: Sequence[_KeyMask]) -> tuple[Tensor, list[Tensor]]:
    """[P, D], and of each group the log sums of exp scores."""
    out = qkv.new_empty(len(qkv), qkv.shape[1] // 3)
    log_sums = []
    layout = groups, heads
    for (q, k, v), (rows,), sight in zip(_views(qkv, *layout, 3), _views(out, *layout, 1), sights, strict=True):
        mixed, log_sum = _forward_blocks(_batched(q) * _scale(q), _batched(k), _batched(v), sight)
        rows.copy_(mixed.view(rows.shape))
        log_sums.append(log_sum)
    return out, log_sums


def _forward_blocks(q: Tensor, k: Tensor, v: Tensor, sight: _KeyMask) -> tuple[Tensor, Tensor]:
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


def _backward_blocks(
    q: Tensor, k: Tensor, v: Tensor, grad: Tensor, log_sums: Tensor, weighted: Tensor, sight: _KeyMask
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


def _key_mask(heads: int, length: int, causal: bool, seen: Tensor | None) -> _KeyMask:
    if seen is None:
        return _KeyMask(causal, None)
    beyond = torch.arange(length) >= seen.repeat_interleave(heads)[:, None]
    return _KeyMask(causal, beyond[:, None])


def _scores(q: Tensor, k: Tensor, block: _Block, sight: _KeyMask) -> Tensor:
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


_LONG_DOCUMENT = 256  # tokens


@dataclass(frozen=True)
class PadUnpadIndices:
    """From the packed sequence to padded groups laid end to end, and back.

    Attributes:
        index: [P] row of the packed sequence at each place of the groups.
        inverse: [T] place of each packed row.
        keep: [P, 1] 1 at tokens, 0 at padding.
    """

    index: Tensor
    inverse: Tensor
    keep: Tensor

    def to(self, device: torch.device) -> PadUnpadIndices:
        return PadUnpadIndices(*(x.to(device, non_blocking=True) for x in (self.index, self.inverse, self.keep)))


@dataclass(frozen=True)
class VarlenLayout:
    """How the documents of a packed batch are laid out for attention: once a batch, shared by all layers.

    Documents of similar length form a group, padded on the right to its longest.

    Attributes:
        groups: (documents, padded length) of each group.
        moves: how rows come into the groups and back; none where they lie so already, end to end.
        ends: int32 [documents + 1] where each document of the packed sequence begins, and the last ends.
        longest: tokens of the longest document.
        lengths: for each group the real tokens of its documents [documents], where padding has to be hidden.
    """

    groups: tuple[tuple[int, int], ...]
    moves: PadUnpadIndices | None
    ends: Tensor
    longest: int
    lengths: tuple[Tensor | None, ...]

    causal: ClassVar[bool]

    @classmethod
    def from_lengths(cls, lengths: list[int], slack: float = 1.15) -> Self:
        """Plan for documents of these lengths.

        Within a group of short documents the longest is at most ``slack`` x the shortest. Long ones fill the products
        of attention by themselves, and are grouped only with their equals.
        """
        starts = [0]
        for length in lengths[:-1]:
            starts.append(starts[-1] + length)
        order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
        groups: list[list[int]] = []
        for i in order:
            longest = lengths[i] if lengths[i] >= _LONG_DOCUMENT else max(lengths[i] * slack, lengths[i] + 2)
            if groups and lengths[groups[-1][0]] <= longest:
                groups[-1].append(i)
            else:
                groups.append([i])
        return cls._laid_out(groups, lengths, starts)

    @classmethod
    def _laid_out(cls, groups: list[list[int]], lengths: list[int], starts: list[int]) -> Self:
        index, keep = [], []
        for group in groups:
            padded = torch.arange(lengths[group[0]])
            length = torch.tensor([lengths[i] for i in group])[:, None]
            start = torch.tensor([starts[i] for i in group])[:, None]
            real = padded[None] < length
            index.append(torch.where(real, start + padded, start).flatten())
            keep.append(real.flatten())
        flat, kept = torch.cat(index), torch.cat(keep)
        shapes = tuple((len(group), lengths[group[0]]) for group in groups)
        ends = torch.tensor([*starts, sum(lengths)], dtype=torch.int32)
        hidden = tuple(cls._to_hide([lengths[i] for i in group]) for group in groups)
        if torch.equal(flat, torch.arange(sum(lengths))):
            return cls(shapes, None, ends, max(lengths), hidden)
        inverse = torch.empty(sum(lengths), dtype=torch.long)
        inverse[flat[kept]] = torch.nonzero(kept).flatten()
        return cls(shapes, PadUnpadIndices(flat, inverse, kept[:, None].float()), ends, max(lengths), hidden)

    @classmethod
    def _to_hide(cls, lengths: list[int]) -> Tensor | None:
        """Lengths of a group's documents, longest first, unless its padding does no harm."""
        return None if cls.causal or lengths[0] == lengths[-1] else torch.tensor(lengths)

    def to(self, device: torch.device) -> Self:
        return replace(
            self,
            moves=self.moves and self.moves.to(device),
            ends=self.ends.to(device, non_blocking=True),
            lengths=tuple(x if x is None else x.to(device, non_blocking=True) for x in self.lengths),
        )


class CausalLayout(VarlenLayout):
    """Every token sees those to its left, so padding on the right changes nothing at real tokens."""

    causal = True


class BidirectionalLayout(VarlenLayout):
    """Every token sees its whole document."""

    causal = False

    @classmethod
    def of_padded(cls, length: int, lengths: Tensor) -> Self:
        """Rows of ``length`` tokens end to end, of which the first ``lengths`` [rows] are real.

        Those may be known to the device alone: no shape depends on them. For the packed kernel each row's padding is
        a document of its own.
        """
        rows = len(lengths)
        starts = torch.arange(rows, device=lengths.device) * length
        ends = torch.stack((starts, starts + lengths), dim=1).flatten()
        ends = torch.cat((ends, ends.new_full((1,), rows * length))).int()
        return cls(((rows, length),), None, ends, length, (lengths,))


class Attention(nn.Module):
    """Multi-head self-attention with one fused input projection (rows q, k, v), as CLIP's."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, norm: nn.LayerNorm, plan: VarlenLayout | None, sequence_length: int) -> Tensor:
        """Attend within norm(x), [T, D] → [T, D]; the norm is the block's.

        Without a plan, rows are sequences of ``sequence_length`` with full attention.
        """
        qkv = norm_linear(x, norm, self.in_proj_weight, self.in_proj_bias)
        return self.out_proj(self._mix(qkv, plan, sequence_length))

    def leave_uncompiled(self) -> None:
        """Keep a compiler out of what depends on the layout: each batch has another, and would be compiled anew."""
        self._mix = torch.compiler.disable(self._mix)  # type: ignore[method-assign]

    def _mix(self, qkv: Tensor, plan: VarlenLayout | None, sequence_length: int) -> Tensor:
        """Projections [T, 3D] → what attention mixes of the values, [T, D]."""
        if plan is None:
            return self._attend(qkv, ((len(qkv) // sequence_length, sequence_length),), (None,), causal=False)
        if varlen_kernel_supports(qkv):
            return varlen_attention(qkv, plan.ends, plan.longest, self.heads, causal=plan.causal)
        if plan.moves is None:
            return self._attend(qkv, plan.groups, plan.lengths, plan.causal)
        moves = plan.moves
        mixed = self._attend(pad_rows(qkv, moves.index, moves.inverse), plan.groups, plan.lengths, plan.causal)
        return unpad_rows(mixed, moves.index, moves.inverse, moves.keep.to(qkv.dtype))

    def _attend(self, qkv: Tensor, groups: Groups, lengths: Lengths, causal: bool) -> Tensor:
        """Groups of equal-length sequences [P, 3D] → [P, D]."""
        if qkv.device.type == "cpu" and all(length <= MAX_BLOCKWISE_LENGTH for _, length in groups):
            return blockwise_attention(qkv, groups, self.heads, causal=causal, lengths=lengths)
        pieces = qkv.split([count * length for count, length in groups])
        return torch.cat(
            [
                self._attend_group(piece, length, real, causal)
                for piece, (_, length), real in zip(pieces, groups, lengths, strict=True)
            ]
        )

    def _attend_group(self, qkv: Tensor, length: int, real: Tensor | None, causal: bool) -> Tensor:
        q, k, v = qkv.view(-1, length, 3, self.heads, qkv.shape[1] // (3 * self.heads)).permute(2, 0, 3, 1, 4)
        seen = None if real is None else (torch.arange(length, device=real.device) < real[:, None])[:, None, None]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=causal)
        return mixed.transpose(1, 2).reshape(len(qkv), -1)
