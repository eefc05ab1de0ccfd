"""The two-layer perceptron of a transformer block."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lcl_core.model.thrifty import Activation, norm_mlp


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x), OpenAI CLIP's approximation; used only when asked for."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Activation] = {"gelu": F.gelu, "quick_gelu": quick_gelu}


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
