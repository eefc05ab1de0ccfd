"""The weights that are shown are those that the latent is mixed with."""

from __future__ import annotations

import torch


def test_the_weights_make_the_latent(small_model, pixels):
    pool = small_model.pool_project
    with torch.no_grad():
        pool.pooler.cross_attn.k.weight.mul_(30)  # fresh weights look everywhere alike
        seen = small_model.visual(pixels)
        weights, value = pool.attention(seen), pool.pooler.value(seen)
        mixed = weights[:, :, None] @ value.view(5, 4, pool.heads, -1).transpose(1, 2)
        latent = pool.pooler.cross_attn.proj(mixed.flatten(1))
        expected, _ = small_model.encode_images(pixels)
    assert weights.shape == (5, pool.heads, 4)
    assert float(weights.std()) > 0.05
    torch.testing.assert_close(weights.sum(-1), torch.ones(5, pool.heads))
    torch.testing.assert_close(latent, expected, atol=1e-6, rtol=1e-5)
