"""The product's own encoder as it sits an examination."""

from __future__ import annotations

import pytest
import torch

from lcl_core.encoders.lcl import LCLEncoder
from lcl_core.encoders.registry import load_image_encoder

PIXELS = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def tower(encoder):
    found = load_image_encoder(encoder)
    assert isinstance(found, LCLEncoder)
    return found


def test_its_numbers_are_its_shapes(tower):
    pooled, patches = tower.encode(PIXELS)
    assert patches.shape == (3, tower.tokens, tower.width)
    assert pooled.shape == (3, tower.embed_dim)
    torch.testing.assert_close(pooled.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(patches, tower.patches(PIXELS))
    assert tower.encode_texts(["a square", "a"]).shape == (2, tower.embed_dim)
    assert tower.image_size == 32


def test_its_layers_hold_every_parameter_once_from_the_input_up(tower):
    named = {id(parameter): name for name, parameter in tower.module.named_parameters()}
    layers = [[named[id(parameter)] for parameter in layer] for layer in tower.layers()]
    assert sorted(name for layer in layers for name in layer) == sorted(named.values())
    assert len(layers) == 1 + 2 + 1
    assert "conv1.weight" in layers[0]
    assert all(name.startswith("transformer.resblocks.0.") for name in layers[1])
    assert layers[3] == ["ln_post.weight", "ln_post.bias"]


def test_a_copy_can_learn_and_is_its_own(tower):
    copy = tower.copy()
    assert all(each.requires_grad for each in copy.module.parameters())
    with torch.no_grad():
        for each in copy.module.parameters():
            each.add_(1.0)
    torch.testing.assert_close(tower.patches(PIXELS), load_tower_again(tower).patches(PIXELS))
    assert not torch.allclose(copy.patches(PIXELS), tower.patches(PIXELS))
    copy.patches(PIXELS).sum().backward()


def load_tower_again(tower):
    """From the weights that it was read with: the untrained ones at seed 0, as the fixture saves them."""
    return tower.random_init()
