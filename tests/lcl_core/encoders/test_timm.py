"""A timm encoder answers what timm answers."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lcl_core.common.errors import UserError
from lcl_core.data.transforms import CLIP_MEAN, CLIP_STD, augment
from lcl_core.encoders.timm import TimmImageEncoder
from lcl_core.specs.data import AugmentationSpec
from tests.lcl_core.encoders.external_samples import sample_images, save_timm

timm = pytest.importorskip("timm")

SMALL_VIT = {"img_size": 64, "depth": 2, "embed_dim": 32, "num_heads": 2, "patch_size": 16}
NETWORKS: list[tuple[str, dict[str, Any], int, int]] = [  # name, settings, tokens, width
    ("vit_tiny_patch16_224", SMALL_VIT, 16, 32),
    ("vit_small_patch14_reg4_dinov2", {**SMALL_VIT, "patch_size": 14, "img_size": 56}, 16, 32),
    ("test_convnext", {}, 25, 64),
    ("swin_tiny_patch4_window7_224", {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)}, 49, 128),
]


@pytest.mark.parametrize(("name", "settings", "tokens", "width"), NETWORKS, ids=[each[0] for each in NETWORKS])
@torch.no_grad()
def test_features_and_transform_are_the_librarys(tmp_path, name, settings, tokens, width):
    save_timm(tmp_path, name, **settings)
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    tower = TimmImageEncoder.load(tmp_path)
    pixels = tower.preprocess(sample_images())
    assert torch.equal(pixels, torch.stack([transform(image) for image in sample_images()]))
    pooled, patches = tower.encode(pixels)
    features = model.forward_features(pixels)
    assert pooled is not None
    torch.testing.assert_close(pooled, F.normalize(model.forward_head(features, pre_logits=True), dim=-1))
    assert (tower.tokens, tower.width) == (tokens, width)
    if features.ndim == 3:
        expected = features[:, model.num_prefix_tokens :]
    else:
        places = features if features.shape[-1] == width else features.permute(0, 2, 3, 1)
        expected = torch.stack([torch.cat(list(image)) for image in places])
    torch.testing.assert_close(patches, expected)
    assert tower.encode_texts(["a"]) is None


def test_training_images_are_augmented_as_everybodys_and_normalised_as_its_own(tmp_path):
    tower = TimmImageEncoder.load(save_timm(tmp_path, **SMALL_VIT))
    spec = AugmentationSpec(crop_scale=(0.5, 0.8), flip_probability=0.5)
    made = tower.training_pixels(sample_images(), spec, random.Random(3))
    draw = random.Random(3)
    clip = np.stack([augment(image, 64, draw, spec) for image in sample_images()])
    levels = clip * np.reshape(CLIP_STD, (3, 1, 1)) + np.reshape(CLIP_MEAN, (3, 1, 1))
    np.testing.assert_allclose(made.numpy(), (levels - 0.5) / 0.5, atol=1e-5)


def test_layers_go_from_the_input_to_the_head(tmp_path):
    tower = TimmImageEncoder.load(save_timm(tmp_path, **{**SMALL_VIT, "depth": 5}))
    network: Any = tower.module
    layers = tower.layers()
    assert len(layers) == 7
    assert any(parameter is network.pos_embed for parameter in layers[0])
    assert any(parameter is network.blocks[1].mlp.fc1.weight for parameter in layers[2])
    assert any(parameter is network.norm.weight for parameter in layers[6])


def test_images_that_are_not_square_are_refused(tmp_path):
    file = save_timm(tmp_path, **SMALL_VIT) / "config.json"
    config = json.loads(file.read_text())
    config["pretrained_cfg"] |= {"input_size": [3, 64, 32], "fixed_input_size": False}
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match="only square ones"):
        TimmImageEncoder.load(tmp_path)
