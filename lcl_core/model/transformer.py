"""Pre-norm transformer blocks shared by both towers, over packed rows [T, D]."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lcl_core.model.attention import Attention, Plan
from lcl_core.model.mlp import MLP


class Block(nn.Module):
    """x += Attn(LN1 x); x += W2 act(W1 LN2 x)."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, activation: str, keep_hidden: bool) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = MLP(width, int(width * mlp_ratio), activation, keep_hidden)

    def forward(self, x: Tensor, plan: Plan | None, sequence_length: int) -> Tensor:
        x = x + self.attn(x, self.ln_1, plan, sequence_length)
        return x + self.mlp(x, self.ln_2)


class Transformer(nn.Module):
    """A stack of blocks.

    Args:
        keep_hidden: keep what each MLP is about to activate, the largest thing that a block keeps, for the backward
            pass; otherwise it is computed again, which costs a sixth of the MLP's products.

    Attributes:
        checkpointing: keep only the inputs of blocks for the backward pass, and compute the rest again.
    """

    def __init__(
        self, width: int, layers: int, heads: int, mlp_ratio: float, activation: str, keep_hidden: bool = True
    ) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(
            Block(width, heads, mlp_ratio, activation, keep_hidden) for _ in range(layers)
        )
        self.checkpointing = False

    @property
    def blocks(self) -> list[Block]:
        return cast(list[Block], list(self.resblocks))

    def forward(self, x: Tensor, plan: Plan | None = None, sequence_length: int = 0) -> Tensor:
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, plan, sequence_length, use_reentrant=False)
            else:
                x = block(x, plan, sequence_length)
        return x
