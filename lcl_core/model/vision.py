"""The vision tower: a ViT trained from scratch (paper, Method; CLIP's pre-norm blocks)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lcl_core.model.configuration import LCLConfig
from lcl_core.model.transformer import Transformer


class Blanks(NamedTuple):
    """Patches that are hidden from the tower, which sees a learned vector in their place.

    Attributes:
        places: [K] flat numbers of patches, image by image.
        embedding: [W].
    """

    places: Tensor
    embedding: Tensor


class VisionTower(nn.Module):
    """[n, 3, S, S] → patch features [n, N, W] after the last norm, the class token dropped.

    With ``patches`` [n, N'] only those patches are looked at (token drop, arXiv 2212.00794): attention, MLPs and the
    document all see N' tokens an image. With ``blanks`` some patches are replaced before positions are added.
    """

    def __init__(self, config: LCLConfig) -> None:
        super().__init__()
        width = config.vision_width
        self.conv1 = nn.Conv2d(3, width, config.patch_size, config.patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(config.num_image_tokens + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        heads = width // config.vision_head_width
        self.transformer = Transformer(width, config.vision_layers, heads, config.mlp_ratio, config.activation)
        self.ln_post = nn.LayerNorm(width)

    def forward(self, pixel_values: Tensor, patches: Tensor | None = None, blanks: Blanks | None = None) -> Tensor:
        embedded = self.conv1(pixel_values).flatten(2).transpose(1, 2)  # [n, N, W], row-major
        if blanks is not None:
            vectors = blanks.embedding.to(embedded.dtype).expand(len(blanks.places), -1)
            embedded = embedded.flatten(0, 1).index_copy(0, blanks.places, vectors).view_as(embedded)
        positions = self.positional_embedding.to(embedded.dtype)
        embedded = embedded + positions[1:]
        if patches is not None:
            embedded = embedded.gather(1, patches[:, :, None].expand(-1, -1, embedded.shape[2]))
        register = (self.class_embedding.to(embedded.dtype) + positions[0]).expand(len(embedded), 1, -1)
        x = torch.cat((register, embedded), dim=1)
        count, length, width = x.shape
        x = self.transformer(self.ln_pre(x).view(count * length, width), sequence_length=length)
        # The class token is only an attention register: LCL keeps the patch tokens alone.
        return self.ln_post(x.view(count, length, width)[:, 1:])
