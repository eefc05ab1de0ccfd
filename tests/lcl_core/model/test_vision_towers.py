"""Every vision tower: its shapes, what it computes against independent code, saving, and errors that name the field."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lcl_core.common.errors import UserError
from lcl_core.estimate.flops import model_parameters
from lcl_core.model import LCLConfig, LCLModel
from lcl_core.model.vision_towers import (
    TOWERS,
    BatchNorm,
    ConvNorm,
    MaskedPatches,
    ResNetBlock,
    ResNetTower,
)
from lcl_core.specs.vision import VISION_TOWERS
from lcl_core.train.factory import build_model

TOWER_SIZES = {
    "vit": {},
    "resnet": {},
    "resnet of patches of 16": {"vision": "resnet", "image_size": 32, "patch_size": 16, "vision_layers": 5},
    "timm:resnet18": {"vision_width": 128},
    "timm:tf_efficientnet_lite0": {"vision_width": 112, "image_size": 32, "patch_size": 16},
    "timm:swin_tiny_patch4_window7_224": {"vision_width": 192, "image_size": 56},
    "timm:vit_tiny_patch16_224": {"vision_width": 192, "image_size": 32, "patch_size": 16},
}


def tower_config(case):
    specials = {f"{name}_token_id": 95 + at for at, name in enumerate(("sot", "eot", "img", "soi", "eoi"))}
    sizes = {
        "vision": case, "image_size": 16, "patch_size": 8, "vision_width": 32, "vision_layers": 2,
        "vision_head_width": 16, "text_width": 24, "text_layers": 1, "text_heads": 2, "context_length": 80,
        "vocab_size": 100, **specials,
    }  # fmt: skip
    return LCLConfig(**(sizes | TOWER_SIZES[case]))


def images(config, count=2):
    return torch.randn(count, 3, config.image_size, config.image_size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=TOWER_SIZES)
def model(request):
    return build_model(tower_config(request.param), seed=0)


def test_validation_and_code_know_the_same_towers():
    assert {name: tower.patchwise for name, tower in TOWERS.items()} == {
        name: kind.patchwise for name, kind in VISION_TOWERS.items()
    }


def test_features_are_a_grid_of_patches_that_every_parameter_shapes(model):
    config, pixels = model.config, images(model.config)
    features = model.train().visual(pixels)
    assert features.shape == (2, config.num_image_tokens, config.vision_width)
    (features * torch.randn_like(features)).sum().backward()
    lacking = [name for name, weight in model.visual.named_parameters() if weight.grad is None]
    assert not lacking  # DDP would wait for them
    assert model.get_image_features(pixels).shape == (2, config.embed_dim)


def test_the_parameters_are_those_of_the_estimate(model):
    assert model_parameters(model.config) == model.num_parameters()


def test_a_saved_model_computes_the_same(model, tmp_path):
    config, pixels = model.config, images(model.config)
    model.train().visual(pixels)  # running means of batch normalisation are saved too
    model.eval().save_pretrained(tmp_path)
    loaded, found = LCLModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(found.values())
    assert loaded.config.vision == config.vision
    with torch.inference_mode():
        torch.testing.assert_close(loaded.get_patch_features(pixels), model.get_patch_features(pixels))


def test_recomputed_activations_give_the_same_gradients(model):
    def gradients():
        model.train().zero_grad()
        model.visual(images(model.config)).square().mean().backward()
        return {
            name: weight.grad.clone() for name, weight in model.visual.named_parameters() if weight.grad is not None
        }

    plain = gradients()
    model.configure_blocks(checkpointing=True)
    again = gradients()
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, msg=name)


def test_training_in_bf16_is_finite(model):
    with torch.autocast("cpu", torch.bfloat16):
        features = model.train().visual(images(model.config))
    features.float().square().mean().backward()
    assert all(bool(weight.grad.isfinite().all()) for weight in model.visual.parameters() if weight.grad is not None)


@pytest.mark.parametrize("case", ["vit"])
def test_pixels_of_masked_patches_reach_no_feature(case):
    config = tower_config(case)
    tower, pixels, side = build_model(config, seed=0).visual, images(config), config.patch_size
    masked = MaskedPatches(torch.tensor([1, 4 + 2]), torch.randn(config.vision_width))
    changed = pixels.clone()
    changed[0, :, :side, side:] += 1  # patch 1 of the first image
    changed[1, :, side:, :side] += 1  # patch 2 of the second
    assert torch.equal(tower(changed, masked=masked), tower(pixels, masked=masked))
    assert not torch.equal(tower(changed), tower(pixels))


def test_resnet_is_torchvisions_basic_block():
    """Four blocks that change width and grid: the same weights give the same map."""
    resnet = pytest.importorskip("torchvision.models.resnet")
    tower = build_model(tower_config("resnet of patches of 16"), seed=0).visual
    assert isinstance(tower, ResNetTower)
    x = torch.rand(2, tower.stem.conv.out_channels, 16, 16)
    for block in tower.layers:
        assert isinstance(block, ResNetBlock)
        for norm in (part for part in block.modules() if isinstance(part, BatchNorm)):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var)
        halves = isinstance(block.shortcut, ConvNorm)
        width = block.second.conv.out_channels
        shortcut = nn.Sequential(nn.Conv2d(x.shape[1], width, 1, 2, bias=False), nn.BatchNorm2d(width))
        theirs = resnet.BasicBlock(x.shape[1], width, 2 if halves else 1, shortcut if halves else None)
        names = {"first.conv": "conv1", "first.norm": "bn1", "second.conv": "conv2", "second.norm": "bn2"}
        names |= {"shortcut.conv": "downsample.0", "shortcut.norm": "downsample.1"}
        state = {f"{names[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": value
                 for name, value in block.state_dict().items()}  # fmt: skip
        missing, unexpected = theirs.load_state_dict(state, strict=False)
        assert not unexpected
        assert all(name.endswith("num_batches_tracked") for name in missing)
        for training in (True, False):
            torch.testing.assert_close(block.train(training)(x), theirs.train(training)(x))
        x = block(x).detach()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vision": "resnet", "image_size": 24, "patch_size": 12}, "patch_size: .* must be 4, 8, 16"),
        ({"vision": "resnet", "patch_size": 2}, "patch_size: .* must be 4, 8, 16"),
        ({"vision": "resnet", "vision_width": 33}, "vision_width: .* multiple of 2"),
        ({"vision": "resnet", "vision_layers": 1}, "vision_layers: .* at least 2"),
        ({"vision": "cnn"}, "choose from vit, resnet and timm:NAME"),
        ({"vision": "timm"}, "choose from"),
        ({"vision": "vit:small"}, "choose from"),
    ],
)
def test_sizes_that_do_not_fit_are_named(changes, words):
    with pytest.raises(ValueError, match=words):
        LCLConfig(**{"image_size": 16, "patch_size": 8, "vision_width": 32, "vision_head_width": 16, **changes})


@pytest.mark.parametrize(
    ("changes", "field", "code", "words"),
    [
        ({"vision": "timm:resnet81"}, "model.vision", "invalid_value", "did you mean resnet18"),
        ({"patch_size": 1, "image_size": 16}, "model.patch_size", "bad_spec", "2, 4, 8, 16, 32 pixels"),
        ({"vision_width": 64}, "model.vision_width", "bad_spec", "set vision_width to 128"),
    ],
)
def test_what_timm_cannot_build_names_the_field(changes, field, code, words):
    config = tower_config("timm:resnet18")
    for name, value in changes.items():
        setattr(config, name, value)
    with pytest.raises(UserError, match=words) as caught:
        LCLModel(config)
    assert (caught.value.field, caught.value.code) == (field, code)


def test_encoding_twice_in_training_gives_the_same_features(model):
    """Gradient caching encodes a batch twice."""
    pixels = images(model.config)
    assert torch.equal(model.train().visual(pixels), model.visual(pixels))


def depthwise(model):
    return [each for each in model.visual.modules() if isinstance(each, nn.Conv2d) and each.groups > 1]


def test_depthwise_convolutions_of_timm_compute_in_fp32_on_a_cpu(monkeypatch):
    model, seen = build_model(tower_config("timm:tf_efficientnet_lite0"), seed=0), []
    original = nn.functional.conv2d

    def record(given, *arguments):
        result = original(given, *arguments)
        seen.append((arguments[-1] > 1, given.dtype, result.dtype))
        return result

    monkeypatch.setattr(nn.functional, "conv2d", record)
    with torch.autocast("cpu", torch.bfloat16):
        model.visual(images(model.config)).sum().backward()
    assert {(given, made) for is_depthwise, given, made in seen if is_depthwise} == {(torch.float32, torch.float32)}
    assert {made for is_depthwise, _, made in seen if not is_depthwise} == {torch.bfloat16}
    assert all(each.weight.grad is not None and each.weight.grad.any() for each in depthwise(model))


def test_a_network_that_cannot_recompute_says_so():
    model = build_model(tower_config("timm:resnet18"), seed=0)
    model.visual.network = nn.Identity()
    with pytest.raises(UserError, match="cannot recompute activations") as caught:
        model.configure_blocks(checkpointing=True)
    assert caught.value.field == "engine.activation_checkpointing"
