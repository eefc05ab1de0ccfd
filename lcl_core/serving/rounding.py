"""A model whose matrix products find their weights in bf16 already."""

from __future__ import annotations

import copy
import re

import torch

from lcl_core.model import LCLModel

_PRODUCTS = re.compile(
    r"(visual|text)\.transformer\.resblocks\.\d+\.(attn\.(in_proj_|out_proj\.)|mlp\.(c_fc|c_proj)\.)(weight|bias)"
)


def with_rounded_products(model: LCLModel) -> LCLModel:
    """A second model that computes under bf16 autocast what ``model`` does, to the bit.

    Autocast rounds the weights of each product each time; for a few short texts that is more work than the product.
    What is not rounded (embeddings, norms, head) is the same memory in both.
    """
    shared = {id(weight): weight for name, weight in model.named_parameters() if not is_rounded(name)}
    twin = copy.deepcopy(model, shared)
    for name, weight in twin.named_parameters():
        if is_rounded(name):
            weight.data = weight.data.to(torch.bfloat16)
    return twin


def is_rounded(name: str) -> bool:
    """Is the parameter, or tensor of a saved encoder, a weight or bias of a block's four products?"""
    return _PRODUCTS.fullmatch(name) is not None
