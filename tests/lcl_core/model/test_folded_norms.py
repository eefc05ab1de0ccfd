"""Folded normalisations: outputs as before to round-off, no normalisation left, and networks that are left alone."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from lcl_core.encoders.engine import EncoderEngine
from lcl_core.encoders.registry import load_image_encoder
from lcl_core.model.vision_towers import BatchNorm, ConvNorm, fold_traced_norms
from lcl_core.pretrained import pretrained_encoders


def trained(network):
    """With statistics and weights as after a training, in evaluation."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | BatchNorm):
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
                (module.weight.data, 0.5, 2.0),
                (module.bias.data, -0.5, 0.5),
            ):
                assert tensor is not None
                tensor.copy_(torch.empty_like(tensor).uniform_(low, high, generator=generator))
    return network.eval()


def count(network):
    return sum(isinstance(module, nn.BatchNorm2d | BatchNorm) for module in network.modules())


def assert_close(found, expected):
    assert float((found - expected).abs().max()) < 1e-4 * float(expected.abs().max())


def test_a_convolution_computes_its_normalisation_too():
    layer = trained(ConvNorm(3, 8, 3, 2))
    assert isinstance(layer, ConvNorm)
    images = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = layer(images)
        layer.fold()
        assert_close(layer(images), expected)
    assert count(layer) == 0


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("tf_efficientnet_lite0", 0),  # activations inside of the norms, and convolutions that pad like TensorFlow's
        ("resnet18", 0),
        ("resnetv2_18d", 8),  # some norms come before the convolutions
        ("convnext_atto", 0),  # has none
    ],
)
def test_timm_networks_compute_the_same(name, left):
    network = trained(timm.create_model(name, features_only=True, out_indices=(-1,)))
    before = count(network)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = network(images)[0]
        folded = fold_traced_norms(network)
        assert_close(network(images)[0], expected)
    assert (folded, count(network)) == (before - left, left)


def test_a_served_encoder_has_none_and_finds_the_same():
    (directory,) = [known.directory for known in pretrained_encoders() if known.superseded is None]
    images = [Image.new("RGB", (96, 96), colour) for colour in ("red", "white", "navy")]
    encoder = load_image_encoder(directory)
    engine = EncoderEngine(directory, "cpu", warm_up=False)
    with torch.no_grad():
        pooled, _ = encoder.encode(encoder.preprocess(images))
    assert pooled is not None
    assert count(encoder.module) > 0
    assert count(engine.encoder.module) == 0
    np.testing.assert_allclose(engine.embed_images(images), pooled, atol=2e-6)
