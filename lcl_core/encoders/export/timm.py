"""timm: the vision tower as a VisionTransformer, to the last norm, or a network of timm's own to its feature map.

Class token, pre-norm, no bias in the patch embedding: CLIP's form, for which timm has names. What it has no place for
is the pooling: timm's reads patches as they come from the last norm, ours normalises them once more for keys and
values. So the patch tokens arrive and the pooled latent does not; ``forward_head`` gives the mean over the patches.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from lcl_core.common.errors import UserError
from lcl_core.common.files import write_json_atomically
from lcl_core.encoders.export.files import write_use
from lcl_core.encoders.lcl import load_model
from lcl_core.encoders.registry import CONFIG, WEIGHTS
from lcl_core.model import LCLConfig, LCLModel
from lcl_core.specs.data import CLIP_MEAN, CLIP_STD

# timm's own names for CLIP's ViT; every size is given besides
_ARCHITECTURES = {"gelu": "vit_base_patch32_clip_224", "quick_gelu": "vit_base_patch32_clip_quickgelu_224"}
_RENAMED = {
    "conv1.": "patch_embed.proj.",
    "ln_pre.": "norm_pre.",
    "ln_post.": "norm.",
    "transformer.resblocks.": "blocks.",
    ".ln_1.": ".norm1.",
    ".ln_2.": ".norm2.",
    ".attn.in_proj_": ".attn.qkv.",
    ".attn.out_proj.": ".attn.proj.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
}
_CROP_MODES = {"crop": "center", "squash": "squash", "pad": "border"}
_BORDER_WORDS = """
The encoder was trained on images padded in the colour of their own border; timm's transform pads in one colour. For
equal features give it square images, padded beforehand.
"""
_WORDS = """
The vision tower of an encoder of Latent Compression Learning. `forward_features` gives a class token, which was only a
register, and then the patch tokens: those are the features. The pooled latent, which is compared with texts, is **not**
here: timm's attention pooling has no norms before keys and values. `forward_head` gives the mean over the patch tokens.
"""
_RECIPE = """
import timm
model = timm.create_model("local-dir:DIR", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
patches = model.forward_features(transform(image)[None])[:, model.num_prefix_tokens :]
"""


_MAP_WORDS = """
The vision tower of an encoder of Latent Compression Learning: a network of timm up to the feature map whose places are
the patches. The norm over channels after it and the pooled latent, which is compared with texts, are **not** here.
"""
_MAP_RECIPE = """
import timm
model = timm.create_model("local-dir:DIR", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
(features,) = model(transform(image)[None])
"""


def write(directory: Path, target: Path) -> None:
    """What ``timm.models.save_for_hf`` writes of such a network, and a README.

    Raises:
        UserError: ``encoder_unreadable``; ``unsupported`` for a network that timm stores otherwise than it computes
            its feature maps.
    """
    model, processor = load_model(directory)
    own_network = model.config.vision.startswith("timm:")
    state, described = _feature_network(model) if own_network else _vision_transformer(model)
    described["pretrained_cfg"]["crop_mode"] = _CROP_MODES[processor.fit]
    save_file({name: value.contiguous() for name, value in state.items()}, target / WEIGHTS, metadata={"format": "pt"})
    write_json_atomically(target / CONFIG, described)
    words = _MAP_WORDS if own_network else _WORDS
    if processor.fit == "pad":
        words += _BORDER_WORDS
    write_use(target, words, _MAP_RECIPE if own_network else _RECIPE, "timm")


def _vision_transformer(model: LCLModel) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by timm's names, and ``config.json``."""
    config, weights = model.config, model.visual.state_dict()
    state = {
        "cls_token": weights.pop("class_embedding")[None, None],
        "pos_embed": weights.pop("positional_embedding")[None],
    }
    for name, value in weights.items():
        for ours, theirs in _RENAMED.items():
            name = name.replace(ours, theirs)
        state[name] = value
    settings = _settings(config)
    own = {
        "fixed_input_size": True,
        "num_classes": 0,
        "pool_size": None,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
    return state, {
        "architecture": _ARCHITECTURES[config.activation],
        "num_classes": 0,
        "num_features": config.vision_width,
        "global_pool": settings["global_pool"],
        "model_args": settings,
        "pretrained_cfg": {**_transform(config), **own},
    }


def _feature_network(model: LCLModel) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """As :func:`_vision_transformer`, of a network that timm builds with ``features_only``."""
    timm: Any = import_module("timm")
    name, network = model.config.vision.partition(":")[2], model.visual.get_submodule("network")
    state = network.state_dict()
    with torch.device("meta"):
        whole = timm.create_model(name, num_classes=0).state_dict()
    if state.keys() - whole.keys():  # timm loads the whole network, of which zeros stand for the rest
        message = f"timm renames the weights of {name} for feature maps, and could not load them; take "
        raise UserError(f"{message}format=huggingface", code="unsupported", field="format")
    indices = list(getattr(network, "feature_info").out_indices)  # noqa: B009 - torch's modules have no such type
    state = {key: state.get(key, torch.zeros(value.shape, dtype=value.dtype)) for key, value in whole.items()}
    return state, {
        "architecture": name,
        "num_classes": 0,
        "num_features": model.config.vision_width,
        "model_args": {"features_only": True, "out_indices": indices, "num_classes": 0},
        "pretrained_cfg": _transform(model.config),
    }


def _settings(config: LCLConfig) -> dict[str, Any]:
    return {
        "img_size": config.image_size,
        "patch_size": config.patch_size,
        "embed_dim": config.vision_width,
        "depth": config.vision_layers,
        "num_heads": config.vision_width // config.vision_head_width,
        "mlp_ratio": config.mlp_ratio,
        "num_classes": 0,
        "global_pool": "avg",
        "fc_norm": False,  # the norm stays where it was: before the mean
    }


def _transform(config: LCLConfig) -> dict[str, Any]:
    return {
        "tag": "lcl",
        "custom_load": False,
        "input_size": [3, config.image_size, config.image_size],
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "mean": list(CLIP_MEAN),
        "std": list(CLIP_STD),
    }
