"""Attention over images of equal length and over documents of any length, without padding in between."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lcl_core.model.blockwise import LONGEST_BLOCKWISE, Groups, Lengths, blockwise_attention
from lcl_core.model.packed import packed_attention, packed_kernel_takes
from lcl_core.model.rows import place_rows, take_rows
from lcl_core.model.thrifty import norm_linear

_LONG = 256  # tokens


@dataclass(frozen=True)
class RowMoves:
    """From the packed sequence to padded groups laid end to end, and back.

    Attributes:
        index: [P] row of the packed sequence at each place of the groups.
        inverse: [T] place of each packed row.
        keep: [P, 1] 1 at tokens, 0 at padding.
    """

    index: Tensor
    inverse: Tensor
    keep: Tensor

    def to(self, device: torch.device) -> RowMoves:
        return RowMoves(*(x.to(device, non_blocking=True) for x in (self.index, self.inverse, self.keep)))


@dataclass(frozen=True)
class Plan:
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
    moves: RowMoves | None
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
            longest = lengths[i] if lengths[i] >= _LONG else max(lengths[i] * slack, lengths[i] + 2)
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
        return cls(shapes, RowMoves(flat, inverse, kept[:, None].float()), ends, max(lengths), hidden)

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


class CausalPlan(Plan):
    """Every token sees those to its left, so padding on the right changes nothing at real tokens."""

    causal = True


class FullPlan(Plan):
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

    def forward(self, x: Tensor, norm: nn.LayerNorm, plan: Plan | None, sequence_length: int) -> Tensor:
        """Attend within norm(x), [T, D] → [T, D]; the norm is the block's.

        Without a plan, rows are sequences of ``sequence_length`` with full attention.
        """
        qkv = norm_linear(x, norm, self.in_proj_weight, self.in_proj_bias)
        return self.out_proj(self._mix(qkv, plan, sequence_length))

    def leave_uncompiled(self) -> None:
        """Keep a compiler out of what depends on the layout: each batch has another, and would be compiled anew."""
        self._mix = torch.compiler.disable(self._mix)  # type: ignore[method-assign]

    def _mix(self, qkv: Tensor, plan: Plan | None, sequence_length: int) -> Tensor:
        """Projections [T, 3D] → what attention mixes of the values, [T, D]."""
        if plan is None:
            return self._attend(qkv, ((len(qkv) // sequence_length, sequence_length),), (None,), causal=False)
        if packed_kernel_takes(qkv):
            return packed_attention(qkv, plan.ends, plan.longest, self.heads, causal=plan.causal)
        if plan.moves is None:
            return self._attend(qkv, plan.groups, plan.lengths, plan.causal)
        moves = plan.moves
        mixed = self._attend(take_rows(qkv, moves.index, moves.inverse), plan.groups, plan.lengths, plan.causal)
        return place_rows(mixed, moves.index, moves.inverse, moves.keep.to(qkv.dtype))

    def _attend(self, qkv: Tensor, groups: Groups, lengths: Lengths, causal: bool) -> Tensor:
        """Groups of equal-length sequences [P, 3D] → [P, D]."""
        if qkv.device.type == "cpu" and all(length <= LONGEST_BLOCKWISE for _, length in groups):
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
