"""A model whose matrix products find their weights in bf16 already."""

from __future__ import annotations

import copy

import torch
from torch import nn

from lcl_core.model import LCLModel
from lcl_core.model.transformer import Block


def with_rounded_products(model: LCLModel) -> LCLModel:
    """A second model that computes under bf16 autocast what ``model`` does, to the bit.

    Autocast rounds the weights of each product each time; for a few short texts that is more work than the product.
    What is not rounded (embeddings, norms, head) is the same memory in both.
    """
    rounded = {id(weight) for block in _blocks(model) for weight in _multiplied(block)}
    shared = {id(weight): weight for weight in model.parameters() if id(weight) not in rounded}
    twin = copy.deepcopy(model, shared)
    for block in _blocks(twin):
        for weight in _multiplied(block):
            weight.data = weight.data.to(torch.bfloat16)
    return twin


def _blocks(model: LCLModel) -> list[Block]:
    return [*model.visual.transformer.blocks, *model.text.transformer.blocks]


def _multiplied(block: Block) -> list[nn.Parameter]:
    """Weights and biases of a block's four products."""
    attention, mlp = block.attn, block.mlp
    return [
        attention.in_proj_weight,
        attention.in_proj_bias,
        *attention.out_proj.parameters(),
        *mlp.c_fc.parameters(),
        *mlp.c_proj.parameters(),
    ]
