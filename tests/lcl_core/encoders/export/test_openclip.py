"""What the refusal says of OpenCLIP is so. Should one of these fail, OpenCLIP has learnt what ours needs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

open_clip = pytest.importorskip("open_clip")


def seen_by(pool: nn.Module, network: nn.Module) -> Tensor:
    """What the pooling is given of one image."""
    seen: list[Tensor] = []
    pool.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    network(torch.zeros(1, 3, 32, 32))
    return seen[0]


@torch.inference_mode()
def test_its_own_pooler_looks_at_the_class_token() -> None:
    from open_clip.transformer import VisionTransformer

    network = VisionTransformer(
        image_size=32, patch_size=8, width=32, layers=1, heads=2, mlp_ratio=2.0, output_dim=32,
        attentional_pool="parallel", attn_pooler_heads=2, attn_pooler_queries=4,
    )  # fmt: skip
    assert seen_by(network.attn_pool_contrastive, network).shape[1] == 16 + 1


@torch.inference_mode()
def test_a_timm_trunk_pools_what_comes_from_the_last_norm() -> None:
    import timm

    trunk = timm.create_model(
        "vit_base_patch32_clip_224", img_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2, num_classes=0,
        global_pool="map",
    ).eval()  # fmt: skip
    patches = trunk.forward_features(torch.zeros(1, 3, 32, 32))[:, 1:]
    assert torch.equal(seen_by(trunk.attn_pool, trunk), patches)
    first = next(each for each in trunk.attn_pool.children() if list(each.parameters()))
    assert isinstance(first, nn.Linear)
    assert isinstance(trunk.attn_pool.kv, nn.Linear)
