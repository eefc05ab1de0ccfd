"""Attentive-pooling head: a learned query looks at patch features, a linear layer names the class.

The paper's transfer head (a). N patches of width W an image, h heads of width d = W / h, C classes, B images.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

_HEAD_WIDTH = 64


class AttentiveProbe(nn.Module):
    """Layer norm → cross-attention of one learned query → output projection → layer norm → linear.

    One query makes attention cheap: q·(K x) = (Kᵀ q)·x, and mixing before projecting equals projecting before
    mixing, so keys and values of the N patches are never formed (exactly the same function, N times less
    work). The input norm's scale and shift would fold into K and V, so it has none.
    """

    undecayed = ("query",)

    def __init__(self, width: int, classes: int, generator: torch.Generator) -> None:
        super().__init__()
        heads = width // _HEAD_WIDTH if width % _HEAD_WIDTH == 0 else 1
        self.query = nn.Parameter(torch.empty(heads, width // heads))
        self.key = nn.Parameter(torch.empty(heads, width // heads, width))
        self.value = nn.Parameter(torch.empty(heads, width // heads, width))
        self.out = skip_init(nn.Linear, width, width)
        self.norm = nn.LayerNorm(width)
        self.head = skip_init(nn.Linear, width, classes)
        with torch.no_grad():
            self.query.normal_(0, 1, generator=generator)
            for weight in (self.key, self.value, self.out.weight):
                weight.normal_(0, width**-0.5, generator=generator)
            self.head.weight.normal_(0, 0.01, generator=generator)
            self.out.bias.zero_()
            self.head.bias.zero_()

    def forward(self, patches: Tensor) -> Tensor:
        """[B, N, W] → logits [B, C]."""
        x = F.layer_norm(patches, patches.shape[-1:])
        look = torch.einsum("hd,hdw->wh", self.query, self.key) / math.sqrt(self.query.shape[1])
        weights = (x @ look).softmax(dim=1)
        mixed = weights.transpose(1, 2) @ x  # [B, h, W]
        values = torch.einsum("bhw,hdw->bhd", mixed, self.value).flatten(1)
        return self.head(self.norm(self.out(values)))
