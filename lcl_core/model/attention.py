"""Attention over images of equal length and over documents of any length, without padding in between."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lcl_core.model.rows import place_rows, take_rows


@dataclass(frozen=True)
class CausalPlan:
    """How the documents of a packed batch are laid out for attention: once a batch, shared by all layers.

    Documents of similar length form a group, padded on the right to its longest; causal attention never looks right,
    so padding changes nothing at real tokens.

    Attributes:
        groups: (documents, padded length) of each group.
        index: [P] row of the packed sequence at each place of the groups laid end to end.
        inverse: [T] place of each packed row.
        keep: [P, 1] 1 at tokens, 0 at padding.
    """

    groups: tuple[tuple[int, int], ...]
    index: Tensor
    inverse: Tensor
    keep: Tensor

    @classmethod
    def from_lengths(cls, lengths: list[int], slack: float = 1.15) -> CausalPlan:
        """Plan for documents of these lengths; within a group the longest is at most ``slack`` x the shortest."""
        starts = [0]
        for length in lengths[:-1]:
            starts.append(starts[-1] + length)
        order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
        groups: list[list[int]] = []
        for i in order:
            if groups and lengths[groups[-1][0]] <= max(lengths[i] * slack, lengths[i] + 2):
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
        inverse = torch.empty(sum(lengths), dtype=torch.long)
        inverse[flat[kept]] = torch.nonzero(kept).flatten()
        shapes = tuple((len(group), lengths[group[0]]) for group in groups)
        return cls(shapes, flat, inverse, kept[:, None].float())

    def to(self, device: torch.device) -> CausalPlan:
        move = (self.index, self.inverse, self.keep)
        return CausalPlan(self.groups, *(tensor.to(device, non_blocking=True) for tensor in move))


class Attention(nn.Module):
    """Multi-head self-attention with one fused input projection (rows q, k, v), as CLIP's."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, plan: CausalPlan | None, sequence_length: int) -> Tensor:
        """[T, D] → [T, D]. Without a plan, rows are sequences of ``sequence_length`` with full attention."""
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        mixed = self._attend(qkv, sequence_length, causal=False) if plan is None else self._attend_documents(qkv, plan)
        return self.out_proj(mixed)

    def _attend_documents(self, qkv: Tensor, plan: CausalPlan) -> Tensor:
        laid_out = take_rows(qkv, plan.index, plan.inverse)
        pieces = laid_out.split([count * length for count, length in plan.groups])
        mixed = [
            self._attend(piece, length, causal=True)
            for piece, (_, length) in zip(pieces, plan.groups, strict=True)
        ]
        return place_rows(torch.cat(mixed), plan.index, plan.inverse, plan.keep.to(qkv.dtype))

    def _attend(self, qkv: Tensor, length: int, *, causal: bool) -> Tensor:
        """Rows of equal-length sequences [C * length, 3D] → [C * length, D]."""
        head_width = qkv.shape[1] // (3 * self.heads)
        q, k, v = qkv.view(-1, length, 3, self.heads, head_width).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return mixed.transpose(1, 2).reshape(qkv.shape[0], -1)
