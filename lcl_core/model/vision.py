"""The vision tower: a ViT trained from scratch (paper, Method; CLIP's pre-norm blocks)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lcl_core.model.configuration import LCLConfig
from lcl_core.model.transformer import Transformer


class VisionTower(nn.Module):
    """[n, 3, S, S] → patch features [n, N, W] after the last norm, the class token dropped."""

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

    def forward(self, pixel_values: Tensor) -> Tensor:
        patches = self.conv1(pixel_values).flatten(2).transpose(1, 2)  # [n, N, W], row-major
        register = self.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        x = torch.cat((register, patches), dim=1) + self.positional_embedding.to(patches.dtype)
        count, length, width = x.shape
        x = self.transformer(self.ln_pre(x).view(count * length, width), sequence_length=length)
        # The class token is only an attention register: LCL keeps the patch tokens alone.
        return self.ln_post(x.view(count, length, width)[:, 1:])
