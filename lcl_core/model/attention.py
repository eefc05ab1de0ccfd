"""Attention over images of equal length and over documents of any length, without padding in between."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lcl_core.model.blockwise import LONGEST_BLOCKWISE, Groups, blockwise_attention
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
class CausalPlan:
    """How the documents of a packed batch are laid out for attention: once a batch, shared by all layers.

    Documents of similar length form a group, padded on the right to its longest; causal attention never looks right,
    so padding changes nothing at real tokens.

    Attributes:
        groups: (documents, padded length) of each group.
        moves: how rows come into the groups and back; none where they lie so already, end to end.
        ends: int32 [documents + 1] where each document of the packed sequence begins, and the last ends.
        longest: tokens of the longest document.
    """

    groups: tuple[tuple[int, int], ...]
    moves: RowMoves | None
    ends: Tensor
    longest: int

    @classmethod
    def from_lengths(cls, lengths: list[int], slack: float = 1.15) -> CausalPlan:
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
    def _laid_out(cls, groups: list[list[int]], lengths: list[int], starts: list[int]) -> CausalPlan:
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
        if torch.equal(flat, torch.arange(sum(lengths))):
            return cls(shapes, None, ends, max(lengths))
        inverse = torch.empty(sum(lengths), dtype=torch.long)
        inverse[flat[kept]] = torch.nonzero(kept).flatten()
        return cls(shapes, RowMoves(flat, inverse, kept[:, None].float()), ends, max(lengths))

    def to(self, device: torch.device) -> CausalPlan:
        ends = self.ends.to(device, non_blocking=True)
        return CausalPlan(self.groups, self.moves and self.moves.to(device), ends, self.longest)


class Attention(nn.Module):
    """Multi-head self-attention with one fused input projection (rows q, k, v), as CLIP's."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, norm: nn.LayerNorm, plan: CausalPlan | None, sequence_length: int) -> Tensor:
        """Attend within norm(x), [T, D] → [T, D]; the norm is the block's.

        Without a plan, rows are sequences of ``sequence_length`` with full attention.
        """
        qkv = norm_linear(x, norm, self.in_proj_weight, self.in_proj_bias)
        return self.out_proj(self._mix(qkv, plan, sequence_length))

    def leave_uncompiled(self) -> None:
        """Keep a compiler out of what depends on the layout: each batch has another, and would be compiled anew."""
        self._mix = torch.compiler.disable(self._mix)  # type: ignore[method-assign]

    def _mix(self, qkv: Tensor, plan: CausalPlan | None, sequence_length: int) -> Tensor:
        """Projections [T, 3D] → what attention mixes of the values, [T, D]."""
        if plan is None:
            return self._attend(qkv, [(len(qkv) // sequence_length, sequence_length)], causal=False)
        if packed_kernel_takes(qkv):
            return packed_attention(qkv, plan.ends, plan.longest, self.heads)
        if plan.moves is None:
            return self._attend(qkv, plan.groups, causal=True)
        moves = plan.moves
        mixed = self._attend(take_rows(qkv, moves.index, moves.inverse), plan.groups, causal=True)
        return place_rows(mixed, moves.index, moves.inverse, moves.keep.to(qkv.dtype))

    def _attend(self, qkv: Tensor, groups: Groups, *, causal: bool) -> Tensor:
        """Groups of equal-length sequences [P, 3D] → [P, D]."""
        if qkv.device.type == "cpu" and all(length <= LONGEST_BLOCKWISE for _, length in groups):
            return blockwise_attention(qkv, groups, self.heads, causal=causal)
        pieces = qkv.split([count * length for count, length in groups])
        return torch.cat(
            [self._attend_group(piece, length, causal) for piece, (_, length) in zip(pieces, groups, strict=True)]
        )

    def _attend_group(self, qkv: Tensor, length: int, causal: bool) -> Tensor:
        q, k, v = qkv.view(-1, length, 3, self.heads, qkv.shape[1] // (3 * self.heads)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return mixed.transpose(1, 2).reshape(len(qkv), -1)
