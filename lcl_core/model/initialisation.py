"""Initial weights, as the authors construct them (CLIP's rules for the text tower, torch's defaults elsewhere)."""

from __future__ import annotations

import math

import torch
from torch import nn

from lcl_core.model.attention import Attention
from lcl_core.model.pooler import AttentivePoolingProjection, CrossAttention
from lcl_core.model.text import TextTower
from lcl_core.model.vision import VisionTower


@torch.no_grad()
def initialise(module: nn.Module) -> None:
    """Give one module its own initial weights (children are visited before their parents)."""
    if isinstance(module, (nn.Linear | nn.Conv2d, nn.LayerNorm)):
        module.reset_parameters()
    elif isinstance(module, Attention):
        nn.init.xavier_uniform_(module.in_proj_weight)
        nn.init.zeros_(module.in_proj_bias)
        nn.init.zeros_(module.out_proj.bias)
    elif isinstance(module, CrossAttention):
        for bias in (module.q_bias, module.k_bias, module.v_bias):
            nn.init.zeros_(bias)
    elif isinstance(module, AttentivePoolingProjection):
        nn.init.normal_(module.query_token)
    elif isinstance(module, VisionTower):
        std = module.class_embedding.shape[0] ** -0.5
        nn.init.normal_(module.class_embedding, std=std)
        nn.init.normal_(module.positional_embedding, std=std)
    elif isinstance(module, TextTower):
        _initialise_text(module)


def _initialise_text(tower: TextTower) -> None:
    width = tower.positional_embedding.shape[1]
    blocks = tower.transformer.blocks
    nn.init.normal_(tower.token_embedding.weight, std=0.02)
    nn.init.normal_(tower.positional_embedding, std=0.01)
    nn.init.normal_(tower.text_projection, std=width**-0.5)
    residual = width**-0.5 * (2 * len(blocks)) ** -0.5
    for block in blocks:
        nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
        nn.init.normal_(block.attn.out_proj.weight, std=residual)
        nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(block.mlp.c_proj.weight, std=residual)


def initial_logit_scale() -> float:
    """ln(1 / 0.07), CLIP's initial inverse temperature."""
    return math.log(1 / 0.07)
