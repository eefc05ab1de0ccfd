"""The vision tower: a ViT trained from scratch (paper, Method; CLIP's pre-norm blocks)."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from lcl_core.model.configuration import LCLConfig
from lcl_core.model.transformer import Transformer


class ConvStem(nn.Sequential):
    """Patch embedding by 3x3 convolutions of stride 2, doubling channels, then 1x1 (Xiao et al. 2021).

    Small models learn faster from small data behind it than behind one strided convolution.
    """

    def __init__(self, width: int, patch_size: int) -> None:
        halvings = int(math.log2(patch_size))
        if 2**halvings != patch_size:
            raise ValueError(f"a conv stem needs a patch_size that is a power of two, not {patch_size}")
        channels = [3, *(max(width >> (halvings - i), 16) for i in range(halvings))]
        layers: list[nn.Module] = []
        for inside, outside in itertools.pairwise(channels):
            layers += [nn.Conv2d(inside, outside, 3, stride=2, padding=1), nn.GroupNorm(1, outside), nn.GELU()]
        super().__init__(*layers, nn.Conv2d(channels[-1], width, 1, bias=False))


def patch_embedding(config: LCLConfig) -> nn.Module:
    """[n, 3, S, S] → [n, W, S/P, S/P]."""
    if config.stem == "conv":
        return ConvStem(config.vision_width, config.patch_size)
    return nn.Conv2d(3, config.vision_width, config.patch_size, config.patch_size, bias=False)


class VisionTower(nn.Module):
    """[n, 3, S, S] → patch features [n, N, W] after the last norm, the class token dropped."""

    def __init__(self, config: LCLConfig) -> None:
        super().__init__()
        width = config.vision_width
        self.conv1 = patch_embedding(config)
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
