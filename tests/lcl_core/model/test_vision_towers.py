"""Every vision tower: its shapes, what it computes against independent code, saving, and errors that name the field."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lcl_core.common.errors import UserError
from lcl_core.estimate.memory import model_parameters
from lcl_core.model import LCLConfig, LCLModel
from lcl_core.model.vision_towers import (
    TOWERS,
    BatchNorm,
    ConvNextTower,
    ConvNorm,
    HybridTower,
    MaskedPatches,
    ResNetBlock,
    ResNetTower,
)
from lcl_core.specs.vision import VISION_TOWERS, TowerSizes, convnext_stages, resnet_stages
from lcl_core.train.factory import build_model

TOWER_SIZES: dict[str, dict[str, Any]] = {
    "vit": {},
    "hybrid": {},
    "hybrid of patches of 12": {"vision": "hybrid", "image_size": 24, "patch_size": 12},
    "convnext": {"vision_layers": 3},
    "convnext of patches of 32": {"vision": "convnext", "image_size": 64, "patch_size": 32, "vision_layers": 6},
    "resnet": {},
    "resnet of patches of 16": {"vision": "resnet", "image_size": 32, "patch_size": 16, "vision_layers": 5},
    "timm:resnet18": {"vision_width": 128},
    "timm:tf_efficientnet_lite0": {"vision_width": 112, "image_size": 32, "patch_size": 16},
    "timm:swin_tiny_patch4_window7_224": {"vision_width": 192, "image_size": 56},
    "timm:vit_tiny_patch16_224": {"vision_width": 192, "image_size": 32, "patch_size": 16},
}


def tower_config(case: str) -> LCLConfig:
    specials = {f"{name}_token_id": 95 + at for at, name in enumerate(("sot", "eot", "img", "soi", "eoi"))}
    sizes = {
        "vision": case, "image_size": 16, "patch_size": 8, "vision_width": 32, "vision_layers": 2,
        "vision_head_width": 16, "text_width": 24, "text_layers": 1, "text_heads": 2, "context_length": 80,
        "vocab_size": 100, **specials,
    }  # fmt: skip
    return LCLConfig(**(sizes | TOWER_SIZES[case]))


def images(config: LCLConfig, count: int = 2) -> Tensor:
    return torch.randn(count, 3, config.image_size, config.image_size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=TOWER_SIZES)
def model(request: pytest.FixtureRequest) -> LCLModel:
    return build_model(tower_config(request.param), seed=0)


def test_validation_and_code_know_the_same_towers() -> None:
    assert {name: tower.patchwise for name, tower in TOWERS.items()} == {
        name: kind.patchwise for name, kind in VISION_TOWERS.items()
    }


def test_features_are_a_grid_of_patches_that_every_parameter_shapes(model: LCLModel) -> None:
    config, pixels = model.config, images(model.config)
    features = model.train().visual(pixels)
    assert features.shape == (2, config.num_image_tokens, config.vision_width)
    (features * torch.randn_like(features)).sum().backward()
    lacking = [name for name, weight in model.visual.named_parameters() if weight.grad is None]
    assert not lacking  # DDP would wait for them
    assert model.get_image_features(pixels).shape == (2, config.embed_dim)


def test_the_parameters_are_those_of_the_estimate(model: LCLModel) -> None:
    assert model_parameters(model.config) == model.num_parameters()


def test_a_saved_model_computes_the_same(model: LCLModel, tmp_path: Path) -> None:
    config, pixels = model.config, images(model.config)
    model.train().visual(pixels)  # running means of batch normalisation are saved too
    model.eval().save_pretrained(tmp_path)
    loaded, found = LCLModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(found.values())
    assert loaded.config.vision == config.vision
    with torch.inference_mode():
        torch.testing.assert_close(loaded.get_patch_features(pixels), model.get_patch_features(pixels))


def test_the_seed_decides_the_weights(model: LCLModel) -> None:
    state, again = model.state_dict(), build_model(model.config, seed=0).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in state.items())
    other = build_model(model.config, seed=1).state_dict()
    assert any(not torch.equal(value, other[name]) for name, value in state.items() if name.startswith("visual."))


def test_recomputed_activations_give_the_same_gradients(model: LCLModel) -> None:
    def gradients() -> dict[str, Tensor]:
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


def test_training_in_bf16_is_finite(model: LCLModel) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        features = model.train().visual(images(model.config))
    features.float().square().mean().backward()
    assert all(bool(weight.grad.isfinite().all()) for weight in model.visual.parameters() if weight.grad is not None)


@pytest.mark.parametrize("case", ["vit", "hybrid", "hybrid of patches of 12"])
def test_a_patchwise_tower_encodes_the_patches_that_are_left(case: str) -> None:
    config = tower_config(case)
    tower, pixels = build_model(config, seed=0).visual, images(config)
    everything = torch.arange(config.num_image_tokens).expand(2, -1)
    torch.testing.assert_close(tower(pixels, everything), tower(pixels))
    some = torch.tensor([[0, 3], [2, 1]])
    assert tower(pixels, some).shape == (2, 2, config.vision_width)


@pytest.mark.parametrize("case", ["vit", "hybrid", "hybrid of patches of 12"])
def test_pixels_of_masked_patches_reach_no_feature(case: str) -> None:
    config = tower_config(case)
    tower, pixels, side = build_model(config, seed=0).visual, images(config), config.patch_size
    masked = MaskedPatches(torch.tensor([1, 4 + 2]), torch.randn(config.vision_width))
    changed = pixels.clone()
    changed[0, :, :side, side:] += 1  # patch 1 of the first image
    changed[1, :, side:, :side] += 1  # patch 2 of the second
    assert torch.equal(tower(changed, masked=masked), tower(pixels, masked=masked))
    assert not torch.equal(tower(changed), tower(pixels))


def test_the_hybrids_patches_overlap_and_have_no_bias_in_front_of_norms() -> None:
    config = tower_config("hybrid")
    tower, pixels = build_model(config, seed=0).visual, images(config)
    assert isinstance(tower, HybridTower)
    changed = pixels.clone()
    changed[:, :, :8, 7] += 1  # the last column of patch 0
    difference = (tower.stem(changed) - tower.stem(pixels)).abs().amax(dim=2)
    assert (difference[:, :2] > 0).all()  # patch 1 sees it too
    assert not [name for name, _ in tower.stem.named_parameters() if "conv" in name and name.endswith("bias")]


def test_convnext_is_timms_convnext() -> None:
    """Against timm's own network with our weights; its norms have another epsilon."""
    timm = pytest.importorskip("timm")
    config = tower_config("convnext of patches of 32")
    tower = build_model(config, seed=0).visual
    assert isinstance(tower, ConvNextTower)
    with torch.no_grad():
        for name, weight in tower.named_parameters():  # no layer scale that hides the blocks
            weight.add_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))))
    widths, depths, _ = zip(*convnext_stages(config.tower_sizes), strict=True)
    theirs = timm.models.convnext.ConvNeXt(depths=depths, dims=widths, num_classes=0)
    state, number = {}, 0
    for stage, depth in enumerate(depths):
        names = ("stem.0", "stem.1") if stage == 0 else (f"stages.{stage}.downsample.1", f"stages.{stage}.downsample.0")
        renamed = {f"layers.{number}.{part}": name for part, name in zip(("conv", "norm"), names, strict=True)}
        for block in range(depth):
            parts = {"conv": "conv_dw", "norm": "norm", "inner": "mlp.fc1", "outer": "mlp.fc2"}
            ours, own = f"layers.{number + 1 + block}", f"stages.{stage}.blocks.{block}"
            renamed |= {f"{ours}.{part}": f"{own}.{name}" for part, name in parts.items()}
            state[f"{own}.gamma"] = tower.state_dict()[f"{ours}.gamma"]
        for ours, own in renamed.items():
            state |= {f"{own}.{kind}": tower.state_dict()[f"{ours}.{kind}"] for kind in ("weight", "bias")}
        number += depth + 1
    found = theirs.load_state_dict(state, strict=False)
    assert not found.unexpected_keys
    assert all(name.startswith("head.") for name in found.missing_keys)
    for module in theirs.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5
    pixels = images(config)
    with torch.inference_mode():
        map_ = theirs.eval().forward_features(pixels).permute(0, 2, 3, 1).flatten(1, 2)
        expected = F.layer_norm(map_, (config.vision_width,), tower.ln_post.weight, tower.ln_post.bias)
        torch.testing.assert_close(tower(pixels), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("patch_size", "layers", "stages"),
    [
        (32, 18, [(96, 3, 4), (192, 3, 8), (384, 9, 16), (768, 3, 32)]),
        (16, 6, [(192, 1, 4), (384, 1, 8), (768, 4, 16)]),
        (32, 4, [(96, 1, 4), (192, 1, 8), (384, 1, 16), (768, 1, 32)]),
        (4, 5, [(768, 5, 4)]),
        (2, 1, [(768, 1, 2)]),
    ],
)
def test_stages_of_convnext(patch_size: int, layers: int, stages: list[tuple[int, int, int]]) -> None:
    assert convnext_stages(TowerSizes(patch_size, 768, layers, 4)) == stages


@pytest.mark.parametrize(
    ("patch_size", "layers", "stages"),
    [
        (4, 2, [(256, 2, 4)]),
        (16, 4, [(64, 1, 4), (128, 1, 8), (256, 2, 16)]),
        (16, 8, [(64, 2, 4), (128, 3, 8), (256, 3, 16)]),
        (32, 8, [(32, 2, 4), (64, 2, 8), (128, 2, 16), (256, 2, 32)]),
    ],
)
def test_stages_of_resnet(patch_size: int, layers: int, stages: list[tuple[int, int, int]]) -> None:
    assert resnet_stages(TowerSizes(patch_size, 256, layers, 4)) == stages


def test_resnet_is_torchvisions_basic_block() -> None:
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
        ({"vision": "hybrid", "image_size": 21, "patch_size": 7}, "patch_size: .* must be even"),
        ({"vision": "convnext", "image_size": 24, "patch_size": 12}, "patch_size: .* must be 4, 8, 16"),
        ({"vision": "convnext", "vision_width": 33}, "vision_width: .* multiple of 2"),
        ({"vision": "convnext", "vision_layers": 1}, "vision_layers: .* at least 2"),
        ({"vision": "resnet", "image_size": 24, "patch_size": 12}, "patch_size: .* must be 4, 8, 16"),
        ({"vision": "resnet", "patch_size": 2}, "patch_size: .* must be 4, 8, 16"),
        ({"vision": "resnet", "vision_width": 33}, "vision_width: .* multiple of 2"),
        ({"vision": "resnet", "vision_layers": 1}, "vision_layers: .* at least 2"),
        ({"vision": "cnn"}, "choose from vit, hybrid, convnext, resnet and timm:NAME"),
        ({"vision": "timm"}, "choose from"),
        ({"vision": "vit:small"}, "choose from"),
    ],
)
def test_sizes_that_do_not_fit_are_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LCLConfig(**{"image_size": 16, "patch_size": 8, "vision_width": 32, "vision_head_width": 16, **changes})


def test_the_default_is_in_no_file() -> None:
    assert "vision" not in LCLConfig().to_dict()
    assert '"vision"' not in LCLConfig().to_json_string(use_diff=False)
    assert LCLConfig(vision="hybrid").to_dict()["vision"] == "hybrid"


@pytest.mark.parametrize(
    ("changes", "field", "code", "words"),
    [
        ({"vision": "timm:resnet81"}, "model.vision", "unknown_model", "did you mean resnet18"),
        ({"patch_size": 1, "image_size": 16}, "model.patch_size", "bad_spec", "2, 4, 8, 16, 32 pixels"),
        ({"vision_width": 64}, "model.vision_width", "bad_spec", "set vision_width to 128"),
    ],
)
def test_what_timm_cannot_build_names_the_field(changes: dict[str, Any], field: str, code: str, words: str) -> None:
    config = tower_config("timm:resnet18")
    for name, value in changes.items():
        setattr(config, name, value)
    with pytest.raises(UserError, match=words) as caught:
        LCLModel(config)
    assert (caught.value.field, caught.value.code) == (field, code)


def test_what_timm_raises_becomes_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no maps of this")

    monkeypatch.setattr("timm.create_model", fail)
    with pytest.raises(UserError, match=r"resnet18 for images of 16 pixels \(no maps of this\); choose") as caught:
        LCLModel(tower_config("timm:resnet18"))
    assert caught.value.field == "model.vision"


def test_encoding_twice_in_training_gives_the_same_features(model: LCLModel) -> None:
    """Gradient caching encodes a batch twice."""
    pixels = images(model.config)
    assert torch.equal(model.train().visual(pixels), model.visual(pixels))


def depthwise(model: LCLModel) -> list[nn.Conv2d]:
    return [each for each in model.visual.modules() if isinstance(each, nn.Conv2d) and each.groups > 1]


def test_depthwise_convolutions_of_timm_compute_in_fp32_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = build_model(tower_config("timm:tf_efficientnet_lite0"), seed=0), []
    original = nn.functional.conv2d

    def record(given: Tensor, *arguments: Any) -> Tensor:
        result = original(given, *arguments)
        seen.append((arguments[-1] > 1, given.dtype, result.dtype))
        return result

    monkeypatch.setattr(nn.functional, "conv2d", record)
    with torch.autocast("cpu", torch.bfloat16):
        model.visual(images(model.config)).sum().backward()
    assert {(given, made) for is_depthwise, given, made in seen if is_depthwise} == {(torch.float32, torch.float32)}
    assert {made for is_depthwise, _, made in seen if not is_depthwise} == {torch.bfloat16}
    assert all(each.weight.grad is not None and each.weight.grad.any() for each in depthwise(model))


def test_a_copy_of_a_timm_tower_has_convolutions_of_its_own() -> None:
    model = build_model(tower_config("timm:tf_efficientnet_lite0"), seed=0).eval()
    twin, pixels = copy.deepcopy(model), images(model.config)
    before = model.visual(pixels)
    with torch.no_grad():
        for each in depthwise(twin):
            each.weight.zero_()
    assert torch.equal(model.visual(pixels), before)
    assert not torch.allclose(twin.visual(pixels), before)


def test_a_network_that_cannot_recompute_says_so() -> None:
    model = build_model(tower_config("timm:resnet18"), seed=0)
    model.visual.network = nn.Identity()
    with pytest.raises(UserError, match="cannot recompute activations") as caught:
        model.configure_blocks(checkpointing=True)
    assert caught.value.field == "engine.activation_checkpointing"


def test_convnext_begins_by_the_rules_of_its_paper() -> None:
    tower = build_model(tower_config("convnext"), seed=0).visual
    weights = torch.cat([each.weight.flatten() for each in tower.modules() if isinstance(each, nn.Linear)])
    assert weights.std().item() == pytest.approx(0.02, rel=0.05)
