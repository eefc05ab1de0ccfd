"""The two-layer perceptron of a transformer block."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lcl_core.model.thrifty import Activation, activated_linear, norm_linear


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x), OpenAI CLIP's approximation; used only when asked for."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Activation] = {"gelu": F.gelu, "quick_gelu": quick_gelu}


class MLP(nn.Module):
    """W2 act(W1 norm(x)); the norm is the block's."""

    def __init__(self, width: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, hidden)
        self.activation = ACTIVATIONS[activation]
        self.c_proj = nn.Linear(hidden, width)

    def forward(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        hidden = norm_linear(x, norm, self.c_fc.weight, self.c_fc.bias)
        return activated_linear(hidden, self.activation, self.c_proj.weight, self.c_proj.bias)
