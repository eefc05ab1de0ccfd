"""Self-attention over sequences of equal length and over packed documents of any length.

Three implementations compute the same: PyTorch's variable-length kernel on GPUs in half precision where a trial shows
that it works, exact blockwise attention on CPUs, and ``scaled_dot_product_attention`` elsewhere. On the CPU a block of
queries meets only the keys up to its own end: PyTorch's kernel computes a good part of what a causal mask drops, and
its backward pass runs at a third of the rate of plain matrix products (docs/performance.md). Probabilities are
recomputed in the backward pass from the logarithm of each row's sum.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F

_LONG_DOCUMENT = 256  # tokens
# Tokens up to which attention keeps its probabilities for the backward pass, and lets documents of up to twice their
# length share a group. The probabilities of longer ones take more memory than the projections.
SHORT_SEQUENCE = 64
MAX_BLOCKWISE_LENGTH = 1024  # tokens; beyond, PyTorch's kernel is about as fast
_BLOCK = 128  # queries
_VARLEN_DEVICES, _VARLEN_DTYPES = ("cuda",), (torch.bfloat16, torch.float16)  # ROCm's GPUs are "cuda" too
_VARLEN_WIDTHS = range(8, 257, 8)  # of heads
_TRIAL_LENGTHS = (5, 0, 3)
_TRIAL_ERROR = 0.05  # relative; rounding to bfloat16 gives a hundredth, an ignored mask half

log = logging.getLogger(__name__)

Groups = Sequence[tuple[int, int]]
Lengths = Sequence[Tensor | None]


@dataclass(frozen=True)
class PadUnpadIndices:
    """Indices from the packed sequence to padded groups laid end to end, and back.

    Attributes:
        index: [P] packed row of each padded row.
        inverse: [T] padded row of each packed row.
        keep: [P, 1] 1 at tokens, 0 at padding.
    """

    index: Tensor
    inverse: Tensor
    keep: Tensor

    def to(self, device: torch.device) -> PadUnpadIndices:
        return PadUnpadIndices(*(x.to(device, non_blocking=True) for x in (self.index, self.inverse, self.keep)))


@dataclass(frozen=True)
class VarlenLayout:
    """Layout of packed documents for attention: computed once a batch, shared by all layers.

    Documents of similar length form a group, padded on the right to its longest.

    Attributes:
        groups: (documents, padded length) of each group.
        padding: from packed rows to the groups and back; none where the packed rows are the groups already.
        cu_seqlens: int32 [documents + 1] start of each document in the packed sequence, and the end of the last.
        max_seqlen: tokens of the longest document.
        tokens: of all documents.
        lengths: for each group the real tokens of its documents [documents], where padding has to be masked.
    """

    groups: tuple[tuple[int, int], ...]
    padding: PadUnpadIndices | None
    cu_seqlens: Tensor
    max_seqlen: int
    tokens: int
    lengths: tuple[Tensor | None, ...]

    causal: ClassVar[bool]

    @classmethod
    def from_lengths(cls, lengths: list[int], slack: float = 1.15) -> Self:
        """Layout of documents of these lengths.

        Within a group the longest document is at most ``slack`` x the shortest, of short documents (``CpuKernels``)
        twice: there a further group costs more than its padding. A document of ``_LONG_DOCUMENT`` tokens fills the
        products of attention by itself, and shares a group only with documents of the same length.
        """
        starts = [0]
        for length in lengths[:-1]:
            starts.append(starts[-1] + length)
        order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
        groups: list[list[int]] = []
        for i in order:
            if groups and lengths[groups[-1][0]] <= _longest_beside(lengths[i], slack):
                groups[-1].append(i)
            else:
                groups.append([i])
        return cls._from_groups(groups, lengths, starts)

    @classmethod
    def _from_groups(cls, groups: list[list[int]], lengths: list[int], starts: list[int]) -> Self:
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
        cu_seqlens = torch.tensor([*starts, sum(lengths)], dtype=torch.int32)
        masked = tuple(cls._lengths_to_mask([lengths[i] for i in group]) for group in groups)
        if torch.equal(flat, torch.arange(sum(lengths))):
            return cls(shapes, None, cu_seqlens, max(lengths), sum(lengths), masked)
        inverse = torch.empty(sum(lengths), dtype=torch.long)
        inverse[flat[kept]] = torch.nonzero(kept).flatten()
        padding = PadUnpadIndices(flat, inverse, kept[:, None].float())
        return cls(shapes, padding, cu_seqlens, max(lengths), sum(lengths), masked)

    @classmethod
    def _lengths_to_mask(cls, lengths: list[int]) -> Tensor | None:
        """Lengths of a group's documents, longest first; none where no query sees the padding."""
        return None if cls.causal or lengths[0] == lengths[-1] else torch.tensor(lengths)

    def to(self, device: torch.device) -> Self:
        return replace(
            self,
            padding=self.padding and self.padding.to(device),
            cu_seqlens=self.cu_seqlens.to(device, non_blocking=True),
            lengths=tuple(x if x is None else x.to(device, non_blocking=True) for x in self.lengths),
        )


def _longest_beside(length: int, slack: float) -> float:
    """Length of the longest document whose group a document may join."""
    if length >= _LONG_DOCUMENT:
        return length
    return max(length * slack, min(2 * length, SHORT_SEQUENCE), length + 2)


class CausalLayout(VarlenLayout):
    """Every token sees those to its left, so padding on the right changes nothing at real tokens."""

    causal = True


class BidirectionalLayout(VarlenLayout):
    """Every token sees its whole document."""

    causal = False

    @classmethod
    def from_padded(cls, length: int, lengths: Tensor) -> Self:
        """Rows of ``length`` tokens end to end, of which the first ``lengths`` [rows] are real.

        ``lengths`` may be known to the device alone: no shape depends on them. For the variable-length kernel each
        row's padding is a document of its own.
        """
        rows = len(lengths)
        starts = torch.arange(rows, device=lengths.device) * length
        ends = torch.stack((starts, starts + lengths), dim=1).flatten()
        cu_seqlens = torch.cat((ends, ends.new_full((1,), rows * length))).int()
        return cls(((rows, length),), None, cu_seqlens, length, rows * length, (lengths,))


def attend(qkv: Tensor, heads: int, layout: VarlenLayout | None, sequence_length: int) -> Tensor:
    """softmax(q k^T / sqrt(d)) v within each sequence, projections [T, 3D] → [T, D].

    Without a layout, rows are sequences of ``sequence_length`` with full attention. Rows behind the layout's tokens
    belong to no sequence; they are 0 in the result.
    """
    if layout is None:
        return _attend_groups(qkv, heads, ((qkv.shape[0] // sequence_length, sequence_length),), (None,), causal=False)
    if len(qkv) > layout.tokens:
        return F.pad(attend(qkv[: layout.tokens], heads, layout, 0), (0, 0, 0, len(qkv) - layout.tokens))
    if varlen_kernel_supports(qkv, heads):
        return varlen_attention(qkv, layout.cu_seqlens, layout.max_seqlen, heads, causal=layout.causal)
    if layout.padding is None:
        return _attend_groups(qkv, heads, layout.groups, layout.lengths, layout.causal)
    index, inverse, keep = layout.padding.index, layout.padding.inverse, layout.padding.keep
    padded = _PadRows.apply(qkv, index, inverse)
    out = _attend_groups(padded, heads, layout.groups, layout.lengths, layout.causal)
    return _UnpadRows.apply(out, index, inverse, keep.to(qkv.dtype))


def _attend_groups(qkv: Tensor, heads: int, groups: Groups, lengths: Lengths, causal: bool) -> Tensor:
    """Groups of equal-length sequences [P, 3D] → [P, D]. A compiler gets PyTorch's operator, which it knows."""
    short = all(length <= MAX_BLOCKWISE_LENGTH for _, length in groups)
    if qkv.device.type == "cpu" and short and not torch.compiler.is_compiling():
        visible = lengths or [None] * len(groups)
        masks = [_key_mask(heads, length, causal, keys) for (_, length), keys in zip(groups, visible, strict=True)]
        if not torch.is_grad_enabled():
            return _forward_groups(qkv, groups, heads, masks)[0]
        return _Blockwise.apply(qkv, groups, heads, masks)
    parts = qkv.split([count * length for count, length in groups])
    attended = [
        _attend_group(part, heads, length, real, causal)
        for part, (_, length), real in zip(parts, groups, lengths, strict=True)
    ]
    return attended[0] if len(attended) == 1 else torch.cat(attended)


def _attend_group(qkv: Tensor, heads: int, length: int, real: Tensor | None, causal: bool) -> Tensor:
    q, k, v = qkv.view(-1, length, 3, heads, qkv.shape[1] // (3 * heads)).permute(2, 0, 3, 1, 4)
    mask = None if real is None else (torch.arange(length, device=real.device) < real[:, None])[:, None, None]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    return out.transpose(1, 2).reshape(qkv.shape[0], -1)


class _PadRows(torch.autograd.Function):
    """``x[index]`` whose backward is a gather too.

    The general backward of indexing adds up gradients of repeated rows. Here ``inverse`` gives for each row of ``x``
    its one position in the output. Padding may repeat any row: its gradient is zero, since attention never reads it.
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
    """Inverse of :class:`_PadRows`: drops the padding rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor, keep: Tensor) -> Tensor:
        ctx.save_for_backward(index, keep)
        return x.index_select(0, inverse)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        index, keep = ctx.saved_tensors
        return grad.index_select(0, index) * keep, None, None, None


# ---------------------------------------------------------------- variable-length kernel (GPU, half precision)


def varlen_kernel_supports(qkv: Tensor, heads: int) -> bool:
    """Whether PyTorch's variable-length kernel computes this: on a GPU, in half precision, and as a trial showed."""
    if qkv.device.type not in _VARLEN_DEVICES or qkv.dtype not in _VARLEN_DTYPES:
        return False
    return _varlen_options(qkv.device, qkv.dtype, qkv.shape[1] // (3 * heads)) is not None


def varlen_attention(qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, heads: int, causal: bool = True) -> Tensor:
    """softmax(q k^T / sqrt(d)) v within each document, [T, 3D] → [T, D], where ``varlen_kernel_supports`` it.

    Args:
        cu_seqlens: int32 [documents + 1] where documents begin and end; a document may be empty.
        max_seqlen: tokens of the longest one.
    """
    options = _varlen_options(qkv.device, qkv.dtype, qkv.shape[1] // (3 * heads))
    assert options is not None
    return _call_varlen(qkv, cu_seqlens, max_seqlen, heads, causal, options)


def _call_varlen(
    qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, heads: int, causal: bool, options: Mapping[str, Any]
) -> Tensor:
    q, k, v = qkv.view(len(qkv), 3, heads, -1).unbind(1)
    window = (-1, 0 if causal else -1)  # tokens to the left and right; -1: any number
    out: Tensor = _import_varlen_attn()(
        q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, window_size=window, **options
    )
    return out.flatten(1)


def _import_varlen_attn() -> Callable[..., Any]:
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn


@cache
def _varlen_options(device: torch.device, dtype: torch.dtype, head_width: int) -> Mapping[str, Any] | None:
    """Arguments with which the kernel passes a trial; none, with a log line that says why, if it does not.

    One split makes a document's output independent of what it is packed with, to the last bit. FlashAttention 2 and
    ROCm refuse that argument; neither splits by itself.
    """
    reasons = []
    if head_width not in _VARLEN_WIDTHS:
        reasons.append(f"its heads are multiples of 8 up to {_VARLEN_WIDTHS[-1]} wide")
    else:
        for options in ({"num_splits": 1}, {}):
            if (reason := _try_varlen(options, device, dtype, head_width)) is None:
                return options
            reasons.append(reason)
    log.warning(
        "attention over packed rows: scaled_dot_product_attention instead of the variable-length kernel "
        "on %s in %s with heads %d wide: %s",
        *(device, dtype, head_width, "; ".join(reasons)),
    )
    return None


def _try_varlen(options: Mapping[str, Any], device: torch.device, dtype: torch.dtype, head_width: int) -> str | None:
    """Compare outputs and gradients of three tiny documents, one of them empty, with ``_attend_group``'s.

    No random numbers: the generators' states belong to the run. Tensors are saved without the caller's hooks: those of
    activation checkpointing would count them in the forward pass, and miss them in the recomputation.

    Returns: why the kernel is not to be called with these options; none: it works.
    """
    tokens, heads = sum(_TRIAL_LENGTHS), 2
    starts = torch.tensor([0, *_TRIAL_LENGTHS], dtype=torch.int32).cumsum(0).int().to(device)
    values = torch.arange(tokens * 3 * heads * head_width).mul(0.7).sin().view(tokens, -1)
    own = torch.autograd.graph.saved_tensors_hooks(Tensor.detach, lambda kept: kept)
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False), own:
        qkv = values.to(device, dtype).requires_grad_()
        for causal in (False, True):
            expected = torch.cat(
                [_attend_group(part, heads, len(part), None, causal) for part in qkv.split(_TRIAL_LENGTHS) if len(part)]
            )
            try:
                found = _call_varlen(qkv, starts, max(_TRIAL_LENGTHS), heads, causal, options)
                gradients = [torch.autograd.grad(out.float().square().sum(), qkv)[0] for out in (found, expected)]
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, TypeError, ValueError, ImportError) as error:  # ImportError: PyTorch before 2.10
                return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            pairs = ((found.detach(), expected.detach()), (gradients[0], gradients[1]))
            errors = [float((mine - theirs).float().norm() / theirs.float().norm()) for mine, theirs in pairs]
            if not all(error <= _TRIAL_ERROR for error in errors):  # also if one is NaN
                return "its outputs or gradients are off by {:.2g} or {:.2g} where a document is empty".format(*errors)
    return None


# ---------------------------------------------------------------- blockwise attention (CPU)


class _KeyMask(NamedTuple):
    """Visible keys of a group.

    Attributes:
        causal: a query sees only keys up to its own position.
        hidden: [B, 1, L] true at keys that no query sees; none where all are visible.
    """

    causal: bool
    hidden: Tensor | None


def _key_mask(heads: int, length: int, causal: bool, visible: Tensor | None) -> _KeyMask:
    if visible is None:
        return _KeyMask(causal, None)
    hidden = torch.arange(length) >= visible.repeat_interleave(heads)[:, None]
    return _KeyMask(causal, hidden[:, None])


class _Blockwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, groups: Groups, heads: int, masks: Sequence[_KeyMask]) -> Tensor:
        out, kept = _forward_groups(qkv, groups, heads, masks)
        ctx.groups, ctx.heads, ctx.masks = groups, heads, masks
        ctx.save_for_backward(qkv, out, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        qkv, out, *kept = ctx.saved_tensors
        grad_qkv = torch.empty_like(qkv)
        shape = ctx.groups, ctx.heads
        for parts, targets, (grad_rows,), (rows,), sums, mask in zip(
            _views(qkv, *shape, 3),
            _views(grad_qkv, *shape, 3),
            _views(grad.to(qkv.dtype), *shape, 1),
            _views(out, *shape, 1),
            kept,
            ctx.masks,
            strict=True,
        ):
            q, k, v, grad_mixed = map(_batched, (*parts, grad_rows))
            q = q * _scale(q)
            if q.shape[1] <= SHORT_SEQUENCE:
                grad_v = torch.bmm(sums.transpose(1, 2), grad_mixed)
                grad_probabilities = torch.bmm(grad_mixed, v.transpose(1, 2))
                grad_scores = torch._softmax_backward_data(grad_probabilities, sums, -1, q.dtype)
                gradients = torch.bmm(grad_scores, k), torch.bmm(grad_scores.transpose(1, 2), q), grad_v
            else:
                weighted = _batched((grad_rows * rows).sum(-1, keepdim=True, dtype=torch.float32))
                gradients = _backward_blocks(q, k, v, grad_mixed, sums, weighted, mask)
            gradients[0].mul_(_scale(q))
            for target, gradient in zip(targets, gradients, strict=True):
                target.copy_(gradient.view(target.shape))
        return grad_qkv, None, None, None


def _forward_groups(qkv: Tensor, groups: Groups, heads: int, masks: Sequence[_KeyMask]) -> tuple[Tensor, list[Tensor]]:
    """[P, D], and of each group what its backward pass needs: probabilities, or log sums of exp scores."""
    out = qkv.new_empty(len(qkv), qkv.shape[1] // 3)
    kept = []
    for (q, k, v), (rows,), mask in zip(
        _views(qkv, groups, heads, 3), _views(out, groups, heads, 1), masks, strict=True
    ):
        forward = _forward_short if q.shape[2] <= SHORT_SEQUENCE else _forward_blocks
        mixed, sums = forward(_batched(q) * _scale(q), _batched(k), _batched(v), mask)
        rows.copy_(mixed.view(rows.shape))
        kept.append(sums)
    return out, kept


def _forward_short(q: Tensor, k: Tensor, v: Tensor, mask: _KeyMask) -> tuple[Tensor, Tensor]:
    """Scaled queries, keys, values [B, L, d] → attention output [B, L, d], and probabilities [B, L, L]."""
    scores = torch.bmm(q, k.transpose(1, 2))
    if mask.hidden is not None:
        scores.masked_fill_(mask.hidden, float("-inf"))
    if mask.causal:
        _hide_later_keys(scores)
    probabilities = scores.softmax(-1)  # computed in fp32, whatever the scores are
    return torch.bmm(probabilities, v), probabilities


def _forward_blocks(q: Tensor, k: Tensor, v: Tensor, mask: _KeyMask) -> tuple[Tensor, Tensor]:
    """Scaled queries, keys, values [B, L, d] → attention output [B, L, d], and log sums of exp scores [B, L, 1]."""
    mixed = torch.empty_like(q)
    log_sums = q.new_empty(*q.shape[:2], 1, dtype=torch.float32)
    for block in _blocks(q.shape[1], mask.causal):
        scores = _scores(q, k, block, mask)
        largest = scores.amax(-1, keepdim=True)
        mass = scores.sub_(largest).exp_().sum(-1, keepdim=True)
        log_sums[:, block.queries] = mass.log() + largest
        mixed[:, block.queries] = torch.bmm(scores.div_(mass).to(q.dtype), v[:, block.keys])
    return mixed, log_sums


def _backward_blocks(
    q: Tensor, k: Tensor, v: Tensor, grad: Tensor, log_sums: Tensor, weighted: Tensor, mask: _KeyMask
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v [B, L, d]. ``weighted``: [B, L, 1] inner product of each output row and its gradient."""
    grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for block in _blocks(q.shape[1], mask.causal):
        queries, keys = block
        weights = _scores(q, k, block, mask).sub_(log_sums[:, queries]).exp_()
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


def _scores(q: Tensor, k: Tensor, block: _Block, mask: _KeyMask) -> Tensor:
    """[B, queries, keys] fp32, -inf at hidden keys."""
    scores = torch.bmm(q[:, block.queries], k[:, block.keys].transpose(1, 2)).float()
    if mask.hidden is not None:
        scores.masked_fill_(mask.hidden[:, :, block.keys], float("-inf"))
    if mask.causal:
        _hide_later_keys(scores[:, :, block.queries])
    return scores


def _hide_later_keys(square: Tensor) -> None:
    square.masked_fill_(torch.ones(square.shape[1:], dtype=torch.bool).triu_(1), float("-inf"))


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
