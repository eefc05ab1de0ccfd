"""The bridge: an MLP from patch tokens into the embedding space of a language model."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

_GELU_POWER = 0.4252  # mean square of gelu(z) for a standard normal z


class Bridge(nn.Module):
    """Layer norm → linear W → D → GELU → linear D → D.

    Encoders of different origin give tokens of different size, so the input is normalised, without a scale and a
    shift that would fold into the first layer. The first answer has the size of the language model's own embeddings:
    what it has never seen comes at least in a volume that it knows.

    Args:
        width: W of the patch tokens.
        hidden: D of the language model.
        power: mean square of its embeddings.
    """

    def __init__(self, width: int, hidden: int, power: float, generator: torch.Generator) -> None:
        super().__init__()
        self.enter = skip_init(nn.Linear, width, hidden)
        self.leave = skip_init(nn.Linear, hidden, hidden)
        with torch.no_grad():
            self.enter.weight.normal_(0, width**-0.5, generator=generator)
            self.leave.weight.normal_(0, (power / (_GELU_POWER * hidden)) ** 0.5, generator=generator)
            self.enter.bias.zero_()
            self.leave.bias.zero_()

    def forward(self, patches: Tensor) -> Tensor:
        """[n, N, W] → [n, N, D]."""
        x = F.layer_norm(patches, patches.shape[-1:])
        return self.leave(F.gelu(self.enter(x)))
