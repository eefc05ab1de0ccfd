"""Pre-norm transformer over packed rows [T, D] (CLIP, arXiv 2103.00020), of both towers."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lcl_core.ops.attention import VarlenLayout, attend
from lcl_core.ops.recompute import Activation, linear, norm_linear, norm_mlp, pad_rows


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x), OpenAI CLIP's approximation."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Activation] = {"gelu": F.gelu, "quick_gelu": quick_gelu}


class Attention(nn.Module):
    """Multi-head self-attention with one fused input projection (rows q, k, v), as CLIP's."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        self._attend = attend

    def forward(self, x: Tensor, norm: nn.LayerNorm, layout: VarlenLayout | None, sequence_length: int) -> Tensor:
        """Attend within norm(x), [T, D] → [T, D]; the norm is the block's.

        Without a layout, rows are sequences of ``sequence_length`` with full attention.
        """
        qkv = norm_linear(x, norm, self.in_proj_weight, self.in_proj_bias)
        attended = self._attend(qkv, self.heads, layout, sequence_length)
        return linear(attended, self.out_proj.weight, self.out_proj.bias)

    def disable_compile(self) -> None:
        """Keep the compiler out of what depends on the layout, which every batch would compile anew."""
        self._attend = torch.compiler.disable(attend)


class MLP(nn.Module):
    """W2 act(W1 norm(x)); the norm is the block's."""

    def __init__(self, width: int, hidden: int, activation: str, keep_hidden: bool) -> None:
        super().__init__()
        self.keep_hidden = keep_hidden
        self.c_fc = nn.Linear(width, hidden)
        self.activation = ACTIVATIONS[activation]
        self.c_proj = nn.Linear(hidden, width)

    def forward(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        return norm_mlp(x, norm, self.c_fc, self.activation, self.c_proj, self.keep_hidden)


class Block(nn.Module):
    """x += Attn(LN1 x); x += W2 act(W1 LN2 x)."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, activation: str, keep_hidden: bool) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = MLP(width, int(width * mlp_ratio), activation, keep_hidden)

    def forward(self, x: Tensor, layout: VarlenLayout | None, sequence_length: int) -> Tensor:
        """[T, D] → [T, D]."""
        x = x + self.attn(x, self.ln_1, layout, sequence_length)
        return x + self.mlp(x, self.ln_2)


class Transformer(nn.Module):
    """A stack of blocks.

    Args:
        keep_hidden: keep each MLP's pre-activation, the largest activation of a block, for the backward pass; otherwise
            it is recomputed, which costs a sixth of the MLP's products.

    Attributes:
        checkpointing: keep only the inputs of blocks for the backward pass, and recompute the rest.
    """

    def __init__(
        self, width: int, layers: int, heads: int, mlp_ratio: float, activation: str, keep_hidden: bool = True
    ) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads, mlp_ratio, activation, keep_hidden) for _ in range(layers))
        self.checkpointing = False

    @property
    def blocks(self) -> list[Block]:
        return cast(list[Block], list(self.resblocks))

    def forward(self, x: Tensor, layout: VarlenLayout | None = None, sequence_length: int = 0) -> Tensor:
        """[T, D] → [T, D]."""
        rows = x.shape[0]  # len() would fix the size of an exported graph
        if layout is not None and self.training:
            x = pad_rows(x)
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, layout, sequence_length, use_reentrant=False)
            else:
                x = block(x, layout, sequence_length)
        return x[:rows]
